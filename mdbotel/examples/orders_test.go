// Package examples_test runs the example orders as two processes, and checks what is observed of them.
package examples_test

import (
	"bufio"
	"context"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

var picture = flag.String("picture", "", "the `file` for a picture of the trace of an order")

// A process is one of the example.
type process struct {
	cmd      *exec.Cmd
	url      string
	spans    string // the file
	database string
}

const testTimeout = 3 * time.Minute

// startProcesses starts the example as the services shop and payments, which run different consumers.
func startProcesses(t *testing.T) (shop, payments *process) {
	t.Helper()
	dir, database := t.TempDir(), testdb.New(t)
	program := filepath.Join(dir, "orders")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./orders").CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	start := func(name string, args ...string) *process {
		p := &process{spans: filepath.Join(dir, name+".json"), database: database}
		p.cmd = exec.CommandContext(t.Context(), program, append(args, "-name", name, "-address", "127.0.0.1:0", "-spans", p.spans)...)
		p.cmd.Env = append(os.Environ(), "DATABASE_URL="+database)
		p.cmd.Stderr = os.Stderr
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("the process has not started: %v, %v", err, p.cmd.Wait())
		}
		p.url = "http://" + strings.TrimSpace(strings.TrimPrefix(line, "listening on"))
		return p
	}
	shop = start("shop", "-consumers", "checkout,order-list", "-lag")
	payments = start("payments", "-consumers", "cashier")
	return shop, payments
}

// stop ends the process, which writes its last spans, and returns all of them.
func (p *process) stop(t *testing.T) []span {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	return readSpans(t, p.spans)
}

func do(ctx context.Context, method, url, body string) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// order places an order and waits until it is paid.
func (p *process) order(t *testing.T, id string) {
	t.Helper()
	if status, answer, err := do(t.Context(), http.MethodPut, p.url+"/orders/"+id, `{"customer": "ann", "cents": 500}`); err != nil || status != http.StatusAccepted {
		t.Fatalf("got status %d, %s, %v", status, answer, err)
	}
	deadline := time.After(testTimeout)
	for {
		status, answer, err := do(t.Context(), http.MethodGet, p.url+"/orders/"+id, "")
		if err == nil && status == http.StatusOK && strings.Contains(answer, `"paid"`) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("the order is not paid: status %d, %s, %v", status, answer, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// settle waits until the consumers have handled all messages, also those that change nothing.
func (p *process) settle(t *testing.T) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), p.database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	deadline := time.After(testTimeout)
	for {
		all, err := consumer.Admin(pool).List(t.Context())
		if err == nil && len(all) == 3 && !slices.ContainsFunc(all, func(s consumer.Status) bool { return s.Pending > 0 }) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("the consumers do not catch up: %+v, %v", all, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestTraceOfAnOrder checks that the way of an order through two processes, from the customer's request to the last change of
// the table, is one trace. With -picture it draws that.
func TestTraceOfAnOrder(t *testing.T) {
	t.Parallel()
	shop, payments := startProcesses(t)
	shop.order(t, "0") // so that connections are open
	shop.order(t, "1")
	shop.settle(t)
	spans := append(shop.stop(t), payments.stop(t)...)
	trace := traceOf(spans, func(s *span) bool {
		return s.Name == "publish order" && s.attribute("messaging.destination.name") == "order-1"
	})
	var got []string
	for _, s := range trace {
		got = append(got, strings.Repeat(". ", s.depth)+s.service()+": "+s.title())
	}
	want := []string{
		"shop: PUT /orders/{id}",
		". shop: publish order",
		". . shop: process order by checkout",
		". . . shop: publish payment",
		". . . . payments: process payment by cashier",
		". . . . . payments: publish payment",
		". . . . . . payments: process payment by cashier",
		". . . . . . shop: process payment by checkout",
		". . . . . . . shop: receive order",
		". . . . . . . shop: publish order",
		". . . . . . . . shop: process order by checkout",
		". . . . . . . . shop: process order by order-list",
		". . . . shop: process payment by checkout",
		". . shop: process order by order-list",
	}
	// Handlers of one message run at the same time, in any order.
	if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	drawn := draw(t, trace)
	if *picture != "" {
		if err := os.WriteFile(*picture, drawn, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
