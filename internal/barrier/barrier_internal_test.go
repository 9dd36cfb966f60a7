package barrier

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fake is a server whose answers a test sets.
type fake struct {
	mu      sync.Mutex
	drawn   Drawn
	left    []string // the answers of Left, the last of which is repeated
	server  int64    // that Left answers with, or 0 for drawn.Server
	err     error
	draws   int
	looks   int
	asked   string // the holders that Left was called with
	onDraw  func()
	session string
}

func (f *fake) Draw(context.Context) (Drawn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draws++
	if f.onDraw != nil {
		f.onDraw()
	}
	return f.drawn, f.err
}

func (f *fake) Left(_ context.Context, holders string) (server int64, left string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	f.asked, server = holders, f.drawn.Server
	if f.server != 0 {
		server = f.server
	}
	if len(f.left) > 0 {
		left = f.left[0]
		f.left = f.left[min(1, len(f.left)-1):]
	}
	return server, left, f.err
}

func (f *fake) Sessions(_ context.Context, holders string) (string, error) {
	return f.session + " of " + holders, nil
}

func newFake(f *fake) (*Barrier, *strings.Builder) {
	log := new(strings.Builder)
	return New(f, slog.New(slog.NewTextHandler(log, nil))), log
}

// TestReach checks that a barrier waits for the holders that it began with, looks only for
// these, and remembers what is final.
func TestReach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{drawn: Drawn{1, 7, "1/2,3/4"}, left: []string{"3/4", "3/4", ""}}
		b, log := newFake(f)
		if got := b.Final(); got != (Final{}) {
			t.Errorf("got %v before the first barrier", got)
		}
		for range 2 {
			if got, err := b.Reach(t.Context(), 7); err != nil || got != (Final{1, 7}) {
				t.Errorf("got %v, %v", got, err)
			}
		}
		if f.draws != 1 || f.looks != 3 || f.asked != "1/2,3/4" || b.Final() != (Final{1, 7}) {
			t.Errorf("got %d barriers, %d looks for %q, %v final", f.draws, f.looks, f.asked, b.Final())
		}
		if log.Len() > 0 {
			t.Errorf("a short wait was logged: %s", log)
		}
		f.drawn = Drawn{1, 9, ""}
		if got, err := b.Reach(t.Context(), 8); err != nil || got != (Final{1, 9}) || f.draws != 2 {
			t.Errorf("got %v, %v, after %d barriers", got, err, f.draws)
		}
		if got, err := b.Reach(t.Context(), Now); err != nil || got != (Final{1, 9}) || f.draws != 3 {
			t.Errorf("got %v, %v, after %d barriers", got, err, f.draws)
		}
	})
}

// TestReachServer checks that a barrier begins again on a server that it did not begin on, and
// that what is final can be forgotten.
func TestReachServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{drawn: Drawn{1, 7, "1/2"}, left: []string{"1/2"}, server: 2}
		f.onDraw = func() {
			if f.draws == 2 {
				f.drawn = Drawn{2, 5, ""}
			}
		}
		b, _ := newFake(f)
		if got, err := b.Reach(t.Context(), 3); err != nil || got != (Final{2, 5}) || f.draws != 2 {
			t.Errorf("got %v, %v, after %d barriers", got, err, f.draws)
		}
		b.Forget(1) // nothing is final there
		if got := b.Final(); got != (Final{2, 5}) {
			t.Errorf("got %v", got)
		}
		b.Forget(2)
		if _, err := b.Reach(t.Context(), 3); err != nil || f.draws != 3 {
			t.Errorf("got %v, after %d barriers", err, f.draws)
		}
	})
}

// TestReachShared checks that callers share a barrier that began after their calls, and no
// other one, unless their position is final.
func TestReachShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{drawn: Drawn{1, 7, "1/2"}, left: []string{"1/2"}}
		b, _ := newFake(f)
		results := make(chan Final, 10)
		reach := func(position int64) {
			final, err := b.Reach(t.Context(), position)
			if err != nil {
				t.Error(err)
			}
			results <- final
		}
		go reach(Now)
		synctest.Wait() // it waits for 1/2
		go reach(5)
		for range 4 {
			go reach(Now)
		}
		synctest.Wait()
		f.mu.Lock()
		f.left = nil
		f.onDraw = func() { f.drawn = Drawn{1, 8, ""} }
		f.mu.Unlock()
		for range 6 {
			<-results
		}
		if f.draws != 2 {
			t.Errorf("got %d barriers, want one, and another for all that were called after it began", f.draws)
		}
	})
}

// TestReachEnds checks that the end of the context and errors end a barrier, and that another
// caller then passes one.
func TestReachEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{drawn: Drawn{1, 7, "1/2"}, left: []string{"1/2"}}
		b, _ := newFake(f)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 2)
		for range 2 { // one waits for the other
			go func() {
				_, err := b.Reach(ctx, Now)
				ended <- err
			}()
		}
		synctest.Wait()
		cancel(cause)
		for range 2 {
			if err := <-ended; err != cause { //nolint:errorlint // the cause itself
				t.Errorf("got %v", err)
			}
		}
		f.mu.Lock()
		f.err = errors.New("lost")
		f.mu.Unlock()
		if _, err := b.Reach(t.Context(), 1); err != f.err { //nolint:errorlint // the error itself
			t.Errorf("got %v", err)
		}
		f.err, f.left = nil, nil
		if got, err := b.Reach(t.Context(), 1); err != nil || got.Position != 7 {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// TestReport checks that a barrier that waits for long is logged once, with what it waits for.
func TestReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{drawn: Drawn{1, 7, "1/2,3/4"}, left: []string{"3/4"}, session: "pid 42"}
		b, log := newFake(f)
		done := make(chan error)
		go func() {
			_, err := b.Reach(t.Context(), Now)
			done <- err
		}()
		time.Sleep(time.Minute)
		f.mu.Lock()
		f.left = nil
		f.mu.Unlock()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "pid 42 of 3/4") || !strings.Contains(got, "waited=") {
			t.Errorf("got the log %q", got)
		}
	})
}
