// containerd's Go ttrpc client against a running grokd that serves the demo model. TAP on standard
// output.
//
//	interop SOCKET ANSWERS.tsv
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"ask/grokdv1"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const testSeconds = 60

var socket string

// The questions whose answers int8 arithmetic can't change.
var answers []struct{ question, answer string }

type peer struct {
	*ttrpc.Client
	inference grokdv1.InferenceClient
	models    grokdv1.ModelsClient
	admin     grokdv1.AdminClient
}

func dial() (*peer, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := ttrpc.NewClient(conn)
	return &peer{c, grokdv1.NewInferenceClient(c), grokdv1.NewModelsClient(c),
		grokdv1.NewAdminClient(c)}, nil
}

func readAnswers(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		field := strings.Split(lines.Text(), "\t")
		if distance, err := strconv.ParseFloat(field[2], 64); err != nil {
			return err
		} else if distance > 1 {
			answers = append(answers, struct{ question, answer string }{field[0], field[1]})
		}
	}
	if len(answers) == 0 {
		return errors.New("no answers in " + path)
	}
	return nil
}

func prompt(question string) *grokdv1.GenerateRequest {
	return &grokdv1.GenerateRequest{
		Prompt: &grokdv1.GenerateRequest_Text{Text: "Q: " + question + "\nA:"},
	}
}

// A request that runs until something ends it.
func endless(id string) *grokdv1.GenerateRequest {
	request := prompt("What does tar do?")
	request.RequestId = id
	request.Sampling = &grokdv1.SamplingParams{
		HasMaxTokens: &grokdv1.SamplingParams_MaxTokens{MaxTokens: 4000},
		IgnoreEos:    true,
	}
	return request
}

// Reads a whole stream and holds it to the promises on seq, the final event and its totals.
func readStream(stream grokdv1.Inference_GenerateClient) (string, *grokdv1.Final, error) {
	var text strings.Builder
	var final *grokdv1.Final
	for seq := uint64(0); ; seq++ {
		event, err := stream.Recv()
		if err == io.EOF {
			if final == nil {
				return "", nil, errors.New("the stream ended without a final event")
			}
			if final.TotalEvents != seq {
				return "", nil, fmt.Errorf("%d events came, %d were announced", seq, final.TotalEvents)
			}
			return text.String(), final, nil
		}
		if err != nil {
			return text.String(), nil, err
		}
		if final != nil {
			return "", nil, errors.New("an event came after the final one")
		}
		if event.Seq != seq {
			return "", nil, fmt.Errorf("seq %d came, not %d", event.Seq, seq)
		}
		if seq == 0 && (event.RequestId == "" || event.Model == "") {
			return "", nil, errors.New("the first event lacks request_id or model")
		}
		text.WriteString(event.GetChunk().GetText())
		final = event.GetFinal()
	}
}

func ask(ctx context.Context, p *peer, question string) (string, *grokdv1.Final, error) {
	stream, err := p.inference.Generate(ctx, prompt(question))
	if err != nil {
		return "", nil, err
	}
	return readStream(stream)
}

func expect(err error, code codes.Code) error {
	if err == nil {
		return fmt.Errorf("it succeeded, %v was due", code)
	}
	if got := status.Code(err); got != code {
		return fmt.Errorf("%v came, %v was due: %v", got, code, err)
	}
	if s, _ := status.FromError(err); s.Message() == "" {
		return fmt.Errorf("%v came without a sentence", code)
	}
	return nil
}

// Waits until nothing runs: what ended must have given its work up.
func idle(ctx context.Context, p *peer) error {
	for {
		s, err := p.admin.Status(ctx, &grokdv1.StatusRequest{})
		if err != nil || s.RequestsRunning+s.RequestsQueued == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d still run", s.RequestsRunning)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func unaryCalls(ctx context.Context, p *peer) error {
	s, err := p.admin.Status(ctx, &grokdv1.StatusRequest{})
	if err != nil || s.Version == "" || s.Pid == 0 {
		return fmt.Errorf("Status: %v %v", s, err)
	}
	list, err := p.models.List(ctx, &grokdv1.ListModelsRequest{})
	if err != nil || len(list.Models) == 0 {
		return fmt.Errorf("List: %v %v", list, err)
	}
	show, err := p.models.Show(ctx, &grokdv1.ShowModelRequest{Model: list.Models[0].Name})
	if err != nil || show.Vocabulary != 4096 || show.Experts != 8 || show.Layers != 6 {
		return fmt.Errorf("Show: %v %v", show, err)
	}
	text := "What does grep do?\n  Ünïcödé \x01"
	ids, err := p.inference.Tokenize(ctx, &grokdv1.TokenizeRequest{Text: text})
	if err != nil || len(ids.Ids) == 0 {
		return fmt.Errorf("Tokenize: %v %v", ids, err)
	}
	back, err := p.inference.Detokenize(ctx, &grokdv1.DetokenizeRequest{Ids: ids.Ids})
	if err != nil || string(back.Text) != text {
		return fmt.Errorf("Detokenize: %v %v", back, err)
	}
	score, err := p.inference.Score(ctx, &grokdv1.ScoreRequest{
		Prompt: &grokdv1.ScoreRequest_Tokens{Tokens: &grokdv1.TokenIds{Ids: ids.Ids}}})
	if err != nil || len(score.Tokens) != len(ids.Ids) || !(score.SumLogprob < 0) {
		return fmt.Errorf("Score: %v %v", score, err)
	}
	return nil
}

func streamsTokens(ctx context.Context, p *peer) error {
	for _, a := range answers {
		text, final, err := ask(ctx, p, a.question)
		if err != nil {
			return err
		}
		if strings.TrimSpace(text) != a.answer {
			return fmt.Errorf("%q answers %q, not %q", a.question, text, a.answer)
		}
		if final.FinishReason != grokdv1.FinishReason_FINISH_REASON_STOP ||
			final.Usage.GetGeneratedTokens() == 0 {
			return fmt.Errorf("final: %v", final)
		}
	}
	return nil
}

func loadStreams(ctx context.Context, p *peer) error {
	list, err := p.models.List(ctx, &grokdv1.ListModelsRequest{})
	if err != nil {
		return err
	}
	stream, err := p.models.Load(ctx, &grokdv1.LoadModelRequest{Model: list.Models[0].Name})
	if err != nil {
		return err
	}
	var last *grokdv1.LoadModelEvent
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		last = event
	}
	if last.GetSummary().GetState() != grokdv1.ModelState_MODEL_STATE_READY {
		return fmt.Errorf("the last event is %v", last)
	}
	return nil
}

func errorStatuses(ctx context.Context, p *peer) error {
	unknown := prompt("Hello")
	unknown.Model = "no-such-model"
	stream, err := p.inference.Generate(ctx, unknown)
	if err == nil {
		_, _, err = readStream(stream)
	}
	if err := expect(err, codes.NotFound); err != nil {
		return err
	}
	_, err = p.models.Show(ctx, &grokdv1.ShowModelRequest{Model: "no-such-model"})
	if err := expect(err, codes.NotFound); err != nil {
		return err
	}
	cold := prompt("Hello")
	cold.Sampling = &grokdv1.SamplingParams{
		HasTemperature: &grokdv1.SamplingParams_Temperature{Temperature: -1}}
	if stream, err = p.inference.Generate(ctx, cold); err == nil {
		_, _, err = readStream(stream) // it may be told its place in the queue first
	}
	if err := expect(err, codes.InvalidArgument); err != nil {
		return err
	}
	_, err = p.inference.Detokenize(ctx, &grokdv1.DetokenizeRequest{Ids: []int32{1 << 30}})
	if err := expect(err, codes.InvalidArgument); err != nil {
		return err
	}
	var response grokdv1.StatusResponse
	err = p.Call(ctx, "grokd.v1.Admin", "NoSuchMethod", &grokdv1.StatusRequest{}, &response)
	if err := expect(err, codes.Unimplemented); err != nil {
		return err
	}
	err = p.Call(ctx, "no.such.Service", "Status", &grokdv1.StatusRequest{}, &response)
	if err := expect(err, codes.Unimplemented); err != nil {
		return err
	}
	_, _, err = ask(ctx, p, "Hello") // the connection is as good as before
	return err
}

func deadlines(ctx context.Context, p *peer) error {
	request := endless("")
	request.TimeoutMs = 100
	stream, err := p.inference.Generate(ctx, request)
	if err != nil {
		return err
	}
	_, _, err = readStream(stream)
	if err := expect(err, codes.DeadlineExceeded); err != nil {
		return err
	}
	// A unary call's deadline travels in ttrpc's own timeout.
	soon, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	long := &grokdv1.TokenIds{Ids: make([]int32, 4000)}
	for i := range long.Ids {
		long.Ids[i] = 310
	}
	_, err = p.inference.Score(soon, &grokdv1.ScoreRequest{
		Prompt: &grokdv1.ScoreRequest_Tokens{Tokens: long}})
	if !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("Score with 20 ms: %v", err)
	}
	return idle(ctx, p)
}

func cancelCall(ctx context.Context, p *peer) error {
	stream, err := p.inference.Generate(ctx, endless("to-be-cancelled"))
	if err != nil {
		return err
	}
	if _, err = stream.Recv(); err != nil {
		return err
	}
	// Somebody has to read on meanwhile: this client delivers all streams' messages from one
	// goroutine, and a stream that nobody reads would keep Cancel's reply behind it.
	end := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = stream.Recv()
		}
		end <- err
	}()
	reply, err := p.inference.Cancel(ctx, &grokdv1.CancelRequest{RequestId: "to-be-cancelled"})
	if err != nil || !reply.Found {
		return fmt.Errorf("Cancel: %v %v", reply, err)
	}
	if err := expect(<-end, codes.Canceled); err != nil {
		return err
	}
	reply, err = p.inference.Cancel(ctx, &grokdv1.CancelRequest{RequestId: "to-be-cancelled"})
	if err != nil || reply.Found {
		return fmt.Errorf("second Cancel: %v %v", reply, err)
	}
	return nil
}

func closingCancels(ctx context.Context, p *peer) error {
	other, err := dial()
	if err != nil {
		return err
	}
	stream, err := other.inference.Generate(ctx, endless(""))
	if err != nil {
		return err
	}
	if _, err = stream.Recv(); err != nil {
		return err
	}
	if err = other.Close(); err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return idle(soon, p)
}

func oversize(ctx context.Context, p *peer) error {
	_, err := p.inference.Tokenize(ctx, &grokdv1.TokenizeRequest{Text: strings.Repeat("a", 5<<20)})
	if err := expect(err, codes.ResourceExhausted); err != nil {
		return err
	}
	_, _, err = ask(ctx, p, "Hello")
	return err
}

func concurrentStreams(ctx context.Context, p *peer) error {
	const n = 32
	var group sync.WaitGroup
	failures := make(chan error, n)
	for i := 0; i < n; i++ {
		a := answers[i%len(answers)]
		group.Add(1)
		go func() {
			defer group.Done()
			text, _, err := ask(ctx, p, a.question)
			if err == nil && strings.TrimSpace(text) != a.answer {
				err = fmt.Errorf("%q answers %q in company", a.question, text)
			}
			failures <- err
		}()
	}
	group.Wait()
	for i := 0; i < n; i++ {
		if err := <-failures; err != nil {
			return err
		}
	}
	return nil
}

func run(test func(context.Context, *peer) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), testSeconds*time.Second)
	defer cancel()
	p, err := dial()
	if err != nil {
		return err
	}
	defer p.Close()
	return test(ctx, p)
}

func main() {
	tests := []struct {
		name string
		run  func(context.Context, *peer) error
	}{
		{"unary calls", unaryCalls},
		{"tokens stream and are the known answers", streamsTokens},
		{"load streams progress", loadStreams},
		{"errors have their status and a sentence", errorStatuses},
		{"deadlines, in the message and in the frame", deadlines},
		{"Cancel ends a stream", cancelCall},
		{"closing the connection ends the work", closingCancels},
		{"an oversize message fails alone", oversize},
		{"32 streams on one connection", concurrentStreams},
	}
	socket = os.Args[1]
	if err := readAnswers(os.Args[2]); err != nil {
		fmt.Println("#", err)
		os.Exit(1)
	}
	exit := 0
	for i, test := range tests {
		if err := run(test.run); err != nil {
			fmt.Printf("# %v\nnot ok %d - %s\n", err, i+1, test.name)
			exit = 1
		} else {
			fmt.Printf("ok %d - %s\n", i+1, test.name)
		}
	}
	fmt.Printf("1..%d\n", len(tests))
	os.Exit(exit)
}
