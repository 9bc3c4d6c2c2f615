// Asks grokd and prints the answer as it comes, with containerd's ttrpc client.
//
//	ask SOCKET QUESTION
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"ask/grokdv1" // made from grokd.proto by protoc-gen-go and protoc-gen-go-ttrpc

	"github.com/containerd/ttrpc"
)

func main() {
	conn, err := net.Dial("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	stream, err := grokdv1.NewInferenceClient(client).Generate(context.Background(),
		&grokdv1.GenerateRequest{
			Prompt: &grokdv1.GenerateRequest_Text{Text: "Q: " + os.Args[2] + "\nA:"},
		})
	if err != nil {
		log.Fatal(err)
	}
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.GetChunk().GetText())
	}
	fmt.Println()
}
