package mdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A silence is a watcher in a bubble of synctest whose questions a test answers, and a diary
// of what it did.
type silence struct {
	t     *testing.T
	pool  *pgxpool.Pool
	w     *watcher
	begun time.Time

	mu     sync.Mutex
	answer func(pid int32) string // a state, or "" for a session that is not there
	takes  time.Duration          // the time that an answer takes
	diary  []string
}

func newSilence(t *testing.T) *silence {
	t.Helper()
	cfg, err := pgxpool.ParseConfig("host=127.0.0.1 port=1")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &silence{t: t, pool: pool, begun: time.Now(), answer: func(int32) string { return "active" }}
	s.w = newWatcher(pool, slog.New(slog.DiscardHandler))
	s.w.question = func(_ context.Context, pids []int32) reply {
		s.note("ask %v", slices.Sorted(slices.Values(pids))) // in the order in which goroutines have begun
		time.Sleep(s.takes)
		a := reply{sessions: make(map[uint32]sessionState)}
		for _, pid := range pids {
			if state := s.answer(pid); state != "" {
				a.sessions[uint32(pid)] = sessionState{state: &state}
			}
		}
		return a
	}
	return s
}

func (s *silence) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.diary = append(s.diary, fmt.Sprintf("%v: ", time.Since(s.begun))+fmt.Sprintf(format, args...))
}

func (s *silence) want(diary ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got, want := strings.Join(s.diary, "\n\t"), strings.Join(diary, "\n\t"); got != want {
		s.t.Errorf("got diary\n\t%s\nwant\n\t%s", got, want)
	}
}

// connect returns the call of a connection, and the server's end of it.
func (s *silence) connect(pid uint32) (*call, net.Conn) {
	client, server := net.Pipe()
	c := &call{pg: constructed(s.t, client), pid: pid, opened: time.Now(), observed: &observedConn{Conn: client}, lowest: client}
	s.t.Cleanup(func() { _ = server.Close() })
	return c, server
}

// statement waits for n bytes of an answer, and notes the end.
func (s *silence) statement(c *call, n int) {
	s.w.add(c)
	_, err := io.CopyN(io.Discard, c.observed, int64(n))
	err = s.w.end(s.t.Context(), c, err)
	var given *silenceError
	switch {
	case errors.As(err, &given):
		s.note("%d is given up: %s", c.pid, given.reason)
	case err != nil:
		s.t.Errorf("pid %d: %v", c.pid, err)
	default:
		s.note("%d is answered", c.pid)
	}
}

// TestSilence checks when a store asks about statements without an answer, and what it does
// then.
func TestSilence(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, s *silence) []string{
		"one that the server executes waits on, and the store asks again at doubling intervals": func(_ *testing.T, s *silence) []string {
			c, server := s.connect(1)
			time.AfterFunc(500*time.Second, func() { _, _ = server.Write([]byte("1")) })
			s.statement(c, 1)
			return []string{
				"11s: ask [1]", "31s: ask [1]", "1m11s: ask [1]", "2m31s: ask [1]", "5m11s: ask [1]", "7m51s: ask [1]", "8m20s: 1 is answered",
			}
		},
		"one that ends in time is not asked about": func(_ *testing.T, s *silence) []string {
			c, server := s.connect(1)
			for range 3 {
				time.AfterFunc(9*time.Second, func() { _, _ = server.Write([]byte("1")) })
				s.statement(c, 1)
			}
			time.Sleep(time.Minute)
			return []string{"9s: 1 is answered", "18s: 1 is answered", "27s: 1 is answered"}
		},
		"a byte ends the silence": func(_ *testing.T, s *silence) []string {
			c, server := s.connect(1)
			go func() {
				for range 10 {
					time.Sleep(8 * time.Second)
					_, _ = server.Write([]byte("1"))
				}
			}()
			s.statement(c, 10)
			return []string{"1m20s: 1 is answered"}
		},
		"a byte after a question ends the doubling": func(_ *testing.T, s *silence) []string {
			c, server := s.connect(1)
			time.AfterFunc(35500*time.Millisecond, func() { _, _ = server.Write([]byte("1")) })
			time.AfterFunc(60*time.Second, func() { _, _ = server.Write([]byte("1")) })
			s.statement(c, 2)
			return []string{"11s: ask [1]", "31s: ask [1]", "46s: ask [1]", "1m0s: 1 is answered"}
		},
		"bytes that leave end the silence": func(_ *testing.T, s *silence) []string {
			c, server := s.connect(1)
			go func() {
				buf := make([]byte, maxWritten)
				for range 5 {
					time.Sleep(8 * time.Second)
					_, _ = io.ReadFull(server, buf)
				}
				_, _ = server.Write([]byte("1"))
			}()
			s.w.add(c)
			_, err := c.observed.Write(make([]byte, 5*maxWritten))
			s.note("sent, %v", s.w.end(s.t.Context(), c, err))
			s.statement(c, 1)
			return []string{"40s: sent, <nil>", "40s: 1 is answered"}
		},
		"a client that computes is not silent": func(_ *testing.T, s *silence) []string {
			c, _ := s.connect(1)
			s.w.add(c)
			time.Sleep(time.Minute)
			s.note("computed, %v", s.w.end(s.t.Context(), c, nil))
			return []string{"1m0s: computed, <nil>"}
		},
		"without Configure, the time of the statement counts, but not that of the caller": func(_ *testing.T, s *silence) []string {
			c := &call{pid: 1, opened: time.Now()}
			s.w.add(c)
			time.Sleep(15500 * time.Millisecond)
			s.w.pause(c, true)
			time.Sleep(time.Minute)
			s.w.pause(c, false)
			time.Sleep(15 * time.Second)
			_ = s.w.end(s.t.Context(), c, nil)
			return []string{"11s: ask [1]", "1m25s: ask [1]"}
		},
		"one that the server does not have is given up": func(_ *testing.T, s *silence) []string {
			c, _ := s.connect(1)
			s.answer = func(int32) string { return "" }
			s.statement(c, 1)
			return []string{"11s: ask [1]", "11s: 1 is given up: the server has no such session"}
		},
		"one whose session does nothing is given up": func(_ *testing.T, s *silence) []string {
			c, _ := s.connect(1)
			s.answer = func(int32) string { return "idle in transaction" }
			s.statement(c, 1)
			return []string{"11s: ask [1]", "11s: 1 is given up: the server is not executing it"}
		},
		"one question is about all, and those that come meanwhile wait for their turn": func(_ *testing.T, s *silence) []string {
			s.takes = 4500 * time.Millisecond
			s.answer = func(pid int32) string { return map[int32]string{1: "idle", 2: "active", 3: "idle"}[pid] }
			var all sync.WaitGroup
			for pid := uint32(1); pid <= 3; pid++ {
				c, server := s.connect(pid)
				all.Go(func() {
					time.Sleep(time.Duration(pid/3*3) * time.Second)
					s.statement(c, 1)
				})
				if pid == 2 {
					time.AfterFunc(30*time.Second, func() { _, _ = server.Write([]byte("1")) })
				}
			}
			all.Wait()
			return []string{
				"11s: ask [1 2]", "15.5s: 1 is given up: the server is not executing it",
				"16s: ask [3]", "20.5s: 3 is given up: the server is not executing it", "30s: 2 is answered",
			}
		},
		"an answer does not end a later statement of the same connection": func(_ *testing.T, s *silence) []string {
			s.takes = 15500 * time.Millisecond // so that the second one is silent for long enough, too
			c, server := s.connect(1)
			s.answer = func(int32) string { return "idle" } // before the second statement arrives
			time.AfterFunc(13*time.Second, func() { _, _ = server.Write([]byte("1")) })
			time.AfterFunc(30*time.Second, func() { _, _ = server.Write([]byte("1")) })
			s.statement(c, 1)
			s.statement(c, 1)
			return []string{"11s: ask [1]", "13s: 1 is answered", "27s: ask [1]", "30s: 1 is answered"}
		},
		"an answer does not end a statement whose answer arrives meanwhile": func(_ *testing.T, s *silence) []string {
			s.takes = 5 * time.Second
			c, server := s.connect(1)
			s.answer = func(int32) string { return "idle" } // it has sent everything
			time.AfterFunc(13*time.Second, func() { _, _ = server.Write([]byte("1")) })
			time.AfterFunc(20*time.Second, func() { _, _ = server.Write([]byte("1")) })
			s.statement(c, 2)
			return []string{"11s: ask [1]", "20s: 1 is answered"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSilence(t)
				want := test(t, s)
				s.want(want...)
				s.w.mu.Lock()
				left := len(s.w.calls)
				s.w.mu.Unlock()
				if left > 0 {
					t.Errorf("got %d calls that have not ended, want none", left)
				}
				time.Sleep(2 * silenceLimit)
				s.w.mu.Lock()
				defer s.w.mu.Unlock()
				if s.w.ticking {
					t.Error("the timer runs without a statement")
				}
			})
		})
	}
}

// TestSilenceExits checks that a store asks again about a statement without an answer if the goroutine of a question was ended.
func TestSilenceExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSilence(t)
		question := s.w.question
		s.w.question = func(context.Context, []int32) reply {
			s.w.question = question
			runtime.Goexit()
			return reply{}
		}
		s.answer = func(int32) string { return "idle" }
		c, server := s.connect(1)
		end := time.AfterFunc(time.Hour, func() { _ = server.Close() })
		defer end.Stop()
		s.statement(c, 1)
		s.want("31s: ask [1]", "31s: 1 is given up: the server is not executing it")
	})
}

// TestStoresShareConnections checks that stores which share a pool do not share what their
// locks guard.
func TestStoresShareConnections(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	conn := constructed(t, client)
	one, other := newSilence(t).w, newSilence(t).w
	c := one.callOf(conn)
	if one.callOf(conn) != c {
		t.Error("a store does not know its connection again")
	}
	if other.callOf(conn) == c {
		t.Error("two stores have the same call")
	}
}

// constructed returns a connection of pgx.
func constructed(t *testing.T, conn net.Conn) *pgconn.PgConn {
	t.Helper()
	cfg, err := pgconn.ParseConfig("host=127.0.0.1 port=1")
	if err != nil {
		t.Fatal(err)
	}
	pg, err := pgconn.Construct(&pgconn.HijackedConn{Conn: conn, PID: 1, Config: cfg, CustomData: make(map[string]any)})
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

// TestGivenUpAnswered checks that a connection which is given up when the answer has just arrived does not return to the pool:
// the next statement would fail.
func TestGivenUpAnswered(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	t.Cleanup(func() { _ = server.Close() })
	conn, w := constructed(t, client), newSilence(t).w
	c := w.callOf(conn)
	w.add(c)
	w.judge([]suspected{{c, c.number}}, &reply{}) // it is not silent for long
	if err := w.end(t.Context(), c, nil); err != nil || conn.IsClosed() {
		t.Errorf("got error %v, closed %t, want an open connection", err, conn.IsClosed())
	}
	w.add(c)
	c.since, c.patience = time.Now().Add(-time.Hour), time.Second
	w.judge([]suspected{{c, c.number}}, &reply{}) // the server has no such session
	if err := w.end(t.Context(), c, nil); err != nil || !conn.IsClosed() {
		t.Errorf("got error %v, closed %t, want a closed connection and no error", err, conn.IsClosed())
	}
}

// TestSilenceVerdict checks what follows from each answer.
func TestSilenceVerdict(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ptr := func(s string) *string { return &s }
	seconds := func(f float64) *float64 { return &f }
	full := &pgconn.PgError{Severity: "FATAL", Code: "53300", Message: "sorry, too many clients already"}
	starting := &pgconn.PgError{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"}
	denied := &pgconn.PgError{Severity: "ERROR", Code: "42501", Message: "permission denied for function pg_is_in_recovery"}
	with := func(s sessionState) reply { return reply{sessions: map[uint32]sessionState{7: s}} }
	for name, tt := range map[string]struct {
		answer  reply
		standby bool
		want    bool // whether to wait on
	}{
		"active":                        {answer: with(sessionState{state: ptr("active")}), want: true},
		"active, waits for a lock":      {answer: with(sessionState{state: ptr("active"), wait: ptr("Lock")}), want: true},
		"active, waits for a standby":   {answer: with(sessionState{state: ptr("active"), wait: ptr("IPC")}), want: true},
		"active, waits for the client":  {answer: with(sessionState{state: ptr("active"), wait: ptr("Client")})},
		"states are turned off":         {answer: with(sessionState{state: ptr("disabled")}), want: true},
		"the role must not see it":      {answer: with(sessionState{}), want: true},
		"idle":                          {answer: with(sessionState{state: ptr("idle"), wait: ptr("Client")})},
		"idle in a transaction":         {answer: with(sessionState{state: ptr("idle in transaction")})},
		"as old as the connection":      {answer: with(sessionState{state: ptr("active"), age: seconds(59)}), want: true},
		"older than the connection":     {answer: with(sessionState{state: ptr("active"), age: seconds(4000)}), want: true},
		"the pid of a younger session":  {answer: with(sessionState{state: ptr("active"), age: seconds(20)})},
		"not there":                     {answer: reply{}},
		"behind a pooler":               {answer: reply{pooled: true, recovering: true}, want: true},
		"on another server, a standby":  {answer: reply{recovering: true, sessions: with(sessionState{state: ptr("active")}).sessions}},
		"on a standby":                  {answer: reply{recovering: true, sessions: with(sessionState{state: ptr("active")}).sessions}, standby: true, want: true},
		"not on this standby":           {answer: reply{recovering: true}, standby: true},
		"on a standby that is promoted": {answer: with(sessionState{state: ptr("active")}), standby: true, want: true},
		"no connection":                 {answer: reply{err: io.ErrUnexpectedEOF}},
		"a timeout":                     {answer: reply{err: context.DeadlineExceeded}},
		"a hook fails":                  {answer: reply{err: context.DeadlineExceeded, unasked: true}, want: true},
		"no room for a connection":      {answer: reply{err: full}, want: true},
		"a server that starts":          {answer: reply{err: starting}},
		"a server that does not know":   {answer: reply{err: denied}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &call{pid: 7, standby: tt.standby, opened: now.Add(-time.Minute)}
			if got := tt.answer.verdict(c, now); (got == "") != tt.want {
				t.Errorf("got reason %q to give up, want to wait on: %t", got, tt.want)
			}
		})
	}
}
