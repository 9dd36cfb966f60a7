package examples_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// TestOrders runs the example orders as two processes, and kills each of them while customers
// place orders: every order that was accepted is paid, once.
func TestOrders(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for leases of processes that are killed")
	}
	database := testdb.New(t)
	instances := []*instance{startInstance(t, database), startInstance(t, database)}
	const orders = 200
	place := func(n int) {
		id, body := fmt.Sprint(n), fmt.Sprintf(`{"customer": "ann", "cents": %d}`, 100+n)
		for i := n; ; i++ {
			// A customer tries the other instance if this one does not answer.
			status, answer, err := instances[i%2].do(t.Context(), http.MethodPut, id, body)
			if err == nil && status == http.StatusAccepted {
				return
			}
			if err == nil || t.Context().Err() != nil {
				t.Fatalf("order %d: got status %d, %s, %v", n, status, answer, err)
			}
		}
	}
	for n := range orders {
		if n == orders/4 || n == orders/2 {
			i := 4 * n / orders % 2
			instances[i].kill(t)
			for more := range 20 {
				place(orders + n + more) // while one instance is not there
			}
			instances[i] = startInstance(t, database)
		}
		place(n)
	}

	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const all = orders + 40
	deadline := time.Now().Add(time.Minute)
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

	var order struct{ State string }
	status, answer, err := instances[0].do(t.Context(), http.MethodGet, "7", "")
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(answer), &order) != nil || order.State != "paid" {
		t.Errorf("got %d, %s, %v, want a paid order", status, answer, err)
	}
	for body, want := range map[string]int{`{"customer": "ann", "cents": 0}`: http.StatusBadRequest, `{`: http.StatusBadRequest} {
		if status, answer, err := instances[0].do(t.Context(), http.MethodPut, "bad", body); err != nil || status != want {
			t.Errorf("%s: got %d, %s, %v, want %d", body, status, answer, err, want)
		}
	}
	for _, i := range instances {
		if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range instances {
		if err := i.cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	}
	var members int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM message_store_consumers.members").Scan(&members); err != nil || members != 0 {
		t.Errorf("got %d members and error %v, want none after all have left", members, err)
	}
}
