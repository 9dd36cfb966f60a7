package examples_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// An instance is a process of the example orders.
type instance struct {
	cmd *exec.Cmd
	url string
}

func startInstance(t *testing.T, database string) *instance {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "orders"))
	cmd.Env = append(os.Environ(), "DATABASE_URL="+database, "ADDRESS=127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the instance has not started: %v, %v", err, cmd.Wait())
	}
	return &instance{cmd, "http://" + strings.TrimSpace(strings.TrimPrefix(line, "listening on"))}
}

func (i *instance) kill(t *testing.T) {
	t.Helper()
	if err := i.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = i.cmd.Wait() // it was killed
}

func (i *instance) do(ctx context.Context, method, id, body string) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(ctx, method, i.url+"/orders/"+id, strings.NewReader(body))
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

// customers place orders at several instances at the same time.
type customers struct {
	t         *testing.T
	instances [2]atomic.Pointer[instance]
	last      atomic.Int64    // the order that was begun last
	accepted  atomic.Int64    // orders
	cut       [2]atomic.Int64 // requests without an answer, because their instance was killed
	done      sync.WaitGroup
}

func (c *customers) come(ctx context.Context, n int) {
	for range n {
		c.done.Go(func() {
			for ctx.Err() == nil {
				if err := c.place(c.last.Add(1)); err != nil {
					c.t.Error(err)
					return
				}
				c.accepted.Add(1)
				_ = backoff.Sleep(ctx, 20*time.Millisecond) // the end is noticed above
			}
		})
	}
}

// place places an order until it is accepted. A customer who gets no answer does not know whether the order was placed, and places it
// again at the other instance. Its ID is the key by which the shop knows it.
func (c *customers) place(n int64) error {
	for i := n % 2; ; i = 1 - i {
		status, answer, err := c.instances[i].Load().do(c.t.Context(), http.MethodPut, fmt.Sprint(n), fmt.Sprintf(`{"customer": "ann", "cents": %d}`, 100+n))
		switch {
		case err == nil && status == http.StatusAccepted:
			return nil
		case err == nil:
			return fmt.Errorf("order %d: got status %d, %s", n, status, answer)
		case c.t.Context().Err() != nil:
			return fmt.Errorf("order %d: %w", n, err)
		case !errors.Is(err, syscall.ECONNREFUSED):
			c.cut[i].Add(1)
		}
	}
}

// waits waits until so many more orders are accepted.
func (c *customers) waits(orders int64) {
	c.t.Helper()
	for until := c.accepted.Load() + orders; c.accepted.Load() < until; {
		if err := backoff.Sleep(c.t.Context(), time.Millisecond); err != nil || c.t.Failed() {
			c.t.Fatal("customers place no more orders", err)
		}
	}
}

// TestOrders runs the example orders as two processes, and kills each of them while customers wait for its answers: every order
// is accepted at last, and paid once.
func TestOrders(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for leases of processes that are killed")
	}
	database := testdb.New(t)
	c := &customers{t: t}
	for i := range c.instances {
		c.instances[i].Store(startInstance(t, database))
	}
	ctx, end := context.WithCancel(t.Context())
	c.come(ctx, 8)
	for i := range c.instances {
		for c.cut[i].Load() == 0 {
			c.waits(40)
			c.instances[i].Load().kill(t)
			c.waits(40) // which the other one accepts
			c.instances[i].Store(startInstance(t, database))
		}
	}
	c.waits(40)
	end()
	c.done.Wait()
	all := int(c.accepted.Load())
	t.Logf("%d orders, %d and %d requests without an answer", all, c.cut[0].Load(), c.cut[1].Load())
	if n := c.last.Load(); n != int64(all) {
		t.Fatalf("%d of %d orders were accepted", all, n)
	}

	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	deadline := time.Now().Add(3 * time.Minute)
	for paid := 0; paid < all; {
		if err := backoff.Sleep(t.Context(), 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM shop.orders WHERE state = 'paid'").Scan(&paid); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d orders are paid", paid, all)
		}
	}
	const streams = `SELECT count(*) FROM (
		SELECT stream_name FROM message_store.messages GROUP BY stream_name HAVING array_agg(type::text ORDER BY position) IN ('{Placed,Paid}', '{Requested,Received}')
	) AS whole`
	var whole, written int
	if err := pool.QueryRow(t.Context(), streams).Scan(&whole); err != nil {
		t.Fatal(err)
	}
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM message_store.messages").Scan(&written); err != nil {
		t.Fatal(err)
	}
	if whole != 2*all || written != 4*all {
		t.Errorf("got %d streams with each message once, and %d messages, want %d and %d", whole, written, 2*all, 4*all)
	}

	var wrong int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM generate_series(1, $1::int) AS n
		LEFT JOIN shop.orders AS o ON o.id = n::text AND o.cents = 100 + n
		LEFT JOIN shop.charges AS c ON c.key = n::text AND c.cents = 100 + n
		WHERE o.id IS NULL OR c.key IS NULL`, all).Scan(&wrong); err != nil || wrong != 0 {
		t.Errorf("%d orders are not in the list with their amount, or were not charged with it, error %v", wrong, err)
	}

	instance := c.instances[0].Load()
	var order struct{ State string }
	status, answer, err := instance.do(t.Context(), http.MethodGet, "7", "")
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(answer), &order) != nil || order.State != "paid" {
		t.Errorf("got %d, %s, %v, want a paid order", status, answer, err)
	}
	for body, want := range map[string]int{`{"customer": "ann", "cents": 0}`: http.StatusBadRequest, `{`: http.StatusBadRequest} {
		if status, answer, err := instance.do(t.Context(), http.MethodPut, "bad", body); err != nil || status != want {
			t.Errorf("%s: got %d, %s, %v, want %d", body, status, answer, err, want)
		}
	}
	for i := range c.instances {
		if err := c.instances[i].Load().cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.instances {
		if err := c.instances[i].Load().cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	}
	var members int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM message_store_consumers.members").Scan(&members); err != nil || members != 0 {
		t.Errorf("got %d members and error %v, want none after all have left", members, err)
	}
}

// TestOrdersLines checks that the service needs few lines that are neither its domain nor HTTP: those of the files that have neither, without
// the package's name, imports, comments, empty lines and closing brackets.
func TestOrdersLines(t *testing.T) {
	t.Parallel()
	imports := regexp.MustCompile(`(?ms)^import \(.*?^\)`)
	counts := regexp.MustCompile(`(?m)^\s*[^\s/})].*$`)
	lines := 0
	for _, name := range []string{"main.go", "shop/shop.go"} {
		lines += len(counts.FindAllString(imports.ReplaceAllString(readPage(t, "orders/"+name), ""), -1)) - 1 // the package's name
	}
	if lines < 20 || lines >= 40 {
		t.Errorf("got %d lines, want fewer than 40, and no fewer than a service can have", lines)
	}
	t.Logf("%d lines", lines)
}
