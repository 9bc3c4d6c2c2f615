//go:build tools

package main

import (
	_ "github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc"
	_ "google.golang.org/protobuf/cmd/protoc-gen-go"
)
