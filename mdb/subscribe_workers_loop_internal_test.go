package mdb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/source"
)

// separate assigns the messages to the workers in turn, by their streams.
func separate(r *rehearsal) {
	p := &workerSet{workers: make([]worker, r.workers), group: 1}
	ids := make([]string, r.workers)
	for n := 0; slices.Contains(ids, ""); n++ {
		id := fmt.Sprint(n)
		for i := range p.workers {
			if p.worker(Category("category").Stream(id)) == &p.workers[i] {
				ids[i] = id
			}
		}
	}
	r.stream = func(p int64) StreamName { return Category("category").Stream(ids[int(p-1)%len(ids)]) }
}

// take makes the handler take the given time for a message, in milliseconds, unless its
// context ends, and then return the result. It notes what was handled.
func (r *rehearsal) take(milliseconds map[int64]int, result func(context.Context, Message) error) {
	r.handler = func(ctx context.Context, m Message) error {
		if d := milliseconds[m.GlobalPosition]; d > 0 {
			select {
			case <-time.After(time.Duration(d) * time.Millisecond):
			case <-ctx.Done():
			}
		}
		err := result(ctx, m)
		if err == nil {
			r.note("handled %d", m.GlobalPosition)
		}
		return err
	}
}

func handled(context.Context, Message) error { return nil }

// TestWorkersProgress checks the order of callbacks when workers take different times,
// and that a slow worker delays nothing but the progress.
func TestWorkersProgress(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		batch, written int
		filtered       string // as written, x: the message passes the filter
		take           map[int64]int
		arrivals       []int
		want           string
	}{
		"a short page, the first slow": {
			batch: 4, written: 3, take: map[int64]int{1: 7, 2: 3, 3: 5}, arrivals: []int{0},
			want: "read 1, ask 3/4 0 0s, sleep 10ms, handled 2, handled 3, handled 1, progress 3, live true, read 4, ask 0/4 1 10ms, sleep 10ms",
		},
		"slower than many reads": { // each is due by the strategy
			batch: 4, written: 2, take: map[int64]int{1: 35, 2: 3}, arrivals: []int{0, 0, 0},
			want: "read 1, ask 2/4 0 0s, sleep 10ms, handled 2, read 3, ask 0/4 1 10ms, sleep 10ms, read 3, ask 0/4 2 10ms, sleep 20ms, " +
				"handled 1, progress 2, live true, read 3, ask 0/4 3 20ms, sleep 40ms",
		},
		"others arrive": { // which are handled meanwhile
			batch: 4, written: 1, take: map[int64]int{1: 25, 2: 3, 3: 3}, arrivals: []int{1, 1, 0},
			want: "read 1, ask 1/4 0 0s, sleep 10ms, read 2, ask 1/4 0 10ms, sleep 10ms, handled 2, read 3, ask 1/4 0 10ms, sleep 10ms, handled 3, " +
				"handled 1, progress 3, live true, read 4, ask 0/4 1 10ms, sleep 10ms",
		},
		"many short pages": { // live after the first
			batch: 4, written: 1, take: map[int64]int{1: 15, 2: 15, 3: 3}, arrivals: []int{1, 1, 0},
			want: "read 1, ask 1/4 0 0s, sleep 10ms, read 2, ask 1/4 0 10ms, sleep 10ms, handled 1, progress 1, live true, read 3, " +
				"ask 1/4 0 10ms, sleep 10ms, handled 3, handled 2, progress 3, read 4, ask 0/4 1 10ms, sleep 10ms",
		},
		"full pages": {
			batch: 2, written: 5, take: map[int64]int{1: 1, 2: 2, 3: 4, 4: 3, 5: 5}, arrivals: []int{0},
			want: "read 1, read 3, live false, read 5, ask 1/2 0 0s, sleep 10ms, handled 1, handled 2, progress 2, handled 4, handled 3, progress 4, " +
				"handled 5, progress 5, live true, read 6, ask 0/2 1 10ms, sleep 10ms",
		},
		"pages done in the wrong order": {
			batch: 2, written: 4, take: map[int64]int{1: 9, 2: 1, 3: 2, 4: 3}, arrivals: []int{0},
			want: "read 1, read 3, live false, read 5, ask 0/2 1 0s, sleep 10ms, handled 2, handled 3, handled 4, handled 1, progress 4, live true, " +
				"read 5, ask 0/2 2 10ms, sleep 20ms",
		},
		"two full pages before it was live": {
			batch: 2, written: 1, take: map[int64]int{1: 15, 2: 2, 3: 3, 4: 4, 5: 25}, arrivals: []int{4, 0, 0},
			want: "read 1, ask 1/2 0 0s, sleep 10ms, read 2, read 4, live false, read 6, ask 0/2 1 0s, sleep 10ms, handled 2, handled 3, handled 4, " +
				"handled 1, progress 3, read 6, ask 0/2 2 10ms, sleep 20ms, handled 5, progress 5, live true, read 6, ask 0/2 3 20ms, sleep 40ms",
		},
		"messages left out": {
			batch: 4, filtered: "..x.x..", take: map[int64]int{3: 3, 5: 2}, arrivals: []int{0},
			want: "read 1, ask 2/4 0 0s, sleep 10ms, handled 5, handled 3, progress 7, live true, read 8, ask 0/4 1 10ms, sleep 10ms",
		},
		"messages left out only": {
			batch: 4, filtered: "...", arrivals: []int{0},
			want: "read 1, progress 3, live true, ask 0/4 1 0s, sleep 10ms, read 4, ask 0/4 2 10ms, sleep 20ms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, tt.written, WithBatchSize(tt.batch), WithWorkers(5))
				separate(r)
				for _, c := range tt.filtered {
					r.filtered, r.written = true, append(r.written, c == 'x')
				}
				r.arrivals = tt.arrivals
				r.take(tt.take, handled)
				if err := r.run(); !errors.Is(err, errEnd) {
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				r.want(tt.want)
			})
		})
	}
}

// TestWorkersStopsReading checks that with a worker that does not finish, the others go
// on until as many messages are in progress as are allowed, and then reads stop.
func TestWorkersStopsReading(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ batch, workers, reads, messages int }{
		{1000, 2, 2, 2000},
		{1000, 124, 2, 2000}, // 1,984 for the workers
		{1000, 125, 3, 3000}, // 2,000
		{100, 4, 2, 200},
		{10, 4, 7, 70}, // 64, and a page
		{1, 2, 33, 33},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 5*tt.messages, WithBatchSize(tt.batch), WithWorkers(tt.workers))
				separate(r)
				r.arrivals = []int{0} // a sleep, in which the workers finish
				reads, others := 0, 0
				r.subscription.page = pages(func(_ context.Context, c readConfig) ([]Message, int64, error) {
					reads++
					return r.read(c), 0, nil
				})
				goOn := make(chan struct{})
				r.handler = func(_ context.Context, m Message) error {
					if m.GlobalPosition == 1 {
						<-goOn
					}
					r.mu.Lock()
					defer r.mu.Unlock()
					others++
					return nil
				}
				var progress []int64
				r.onProgress = positions(func(_ context.Context, position int64) error {
					progress = append(progress, position)
					return nil
				})
				done := make(chan error)
				go func() { done <- r.run() }()
				synctest.Wait()
				blocked := (tt.messages + tt.workers - 1) / tt.workers // those of the first message's worker
				if reads != tt.reads || others != tt.messages-blocked || len(progress) > 0 {
					t.Errorf("got %d reads, %d messages handled, progress %v, want %d, %d, none", reads, others, progress, tt.reads, tt.messages-blocked)
				}
				close(goOn)
				if err := <-done; !errors.Is(err, errEnd) {
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				if n := 5 * tt.messages; reads != n/tt.batch+2 || others != n || progress[len(progress)-1] != int64(n) {
					t.Errorf("got %d reads, %d messages handled, progress %v, want %d, %d, %d", reads, others, progress, n/tt.batch+2, n, n)
				}
			})
		})
	}
}

// TestWorkersFails checks that the first failure of a handler is the one that is
// returned, while other handlers are running, some of which ignore their context.
func TestWorkersFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error": func() error { return errHandler },
		"panic": func() error { panic(errHandler) },
		"exit":  func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 20, WithBatchSize(6), WithWorkers(5))
				separate(r)
				r.arrivals = []int{0}
				// 1 and 3 are done. 2, 4 and 5 are running when 8 fails, which is the
				// second message of the third worker; 5 ignores its context.
				take := map[int64]int{1: 2, 2: 100, 3: 1, 4: 100, 6: 100, 8: 5}
				causes := make(map[int64]error)
				r.take(take, func(ctx context.Context, m Message) error {
					switch p := m.GlobalPosition; p {
					case 8:
						return fail()
					case 5:
						<-time.After(20 * time.Millisecond)
					case 2, 4, 6:
						r.mu.Lock()
						defer r.mu.Unlock()
						causes[p] = context.Cause(ctx)
						if p != 2 {
							return ctx.Err()
						}
					}
					return nil
				})
				begun := time.Now()
				err := r.run()
				if ran := time.Since(begun).Round(time.Millisecond); ran != 20*time.Millisecond {
					t.Errorf("got a run of %v, want 20ms, which is when the last handler returns", ran)
				}
				var h *HandlerError
				if !errors.As(err, &h) || h.GlobalPosition != 8 || h.Position != 7 || h.Stream != r.stream(8) {
					t.Fatalf("got error %v, want one at 8", err)
				}
				for p, cause := range causes {
					if cause != err { //nolint:errorlint // the error itself
						t.Errorf("message %d: got cause %v", p, cause)
					}
				}
				if len(causes) != 3 {
					t.Errorf("got %d handlers that noticed the end, want 3", len(causes))
				}
				r.want("read 1, read 7, live false, read 13, read 19, ask 2/6 0 0s, sleep 10ms, handled 3, handled 1, handled 2, handled 5, progress 3")
				var p *PanicError
				switch name {
				case "error":
					if !errors.Is(err, errHandler) {
						t.Errorf("got error %v, want %v", err, errHandler)
					}
				case "panic":
					if !errors.As(err, &p) || p.Value != any(errHandler) || !strings.Contains(string(p.Stack), "TestWorkersFails") {
						t.Errorf("got error %v with stack\n%s", err, p.Stack)
					}
				case "exit":
					if !errors.Is(err, errHandlerExits) {
						t.Errorf("got error %v, want %v", err, errHandlerExits)
					}
				}
			})
		})
	}
}

// TestWorkersCallbacksFail checks that a failure of another callback ends the running
// handlers, and that what they have handled counts.
func TestWorkersCallbacksFail(t *testing.T) {
	t.Parallel()
	refused := &pgconn.PgError{Code: "42601"}
	for name, tt := range map[string]struct {
		arrange func(r *rehearsal)
		want    string
	}{
		"OnProgress": { // which is not called with what is handled later
			func(r *rehearsal) {
				r.onProgress = positions(func(_ context.Context, p int64) error { r.note("progress %d", p); return errHandler })
			},
			"read 1, read 3, live false, read 5, ask 0/2 1 0s, sleep 10ms, handled 1, handled 2, progress 2, handled 3",
		},
		"OnLive": {
			func(r *rehearsal) { r.onLive = func(bool) { panic(errHandler) } },
			"read 1, read 3, handled 1, handled 2, progress 2",
		},
		"a read": {
			func(r *rehearsal) { r.failures = []error{nil, nil, refused} },
			"read 1, read 3, live false, read 5, handled 1, handled 2, handled 3, progress 3",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 4, WithBatchSize(2), WithWorkers(4))
				separate(r)
				r.arrivals = []int{0}
				r.subscription.page = pages(func(ctx context.Context, c readConfig) ([]Message, int64, error) {
					synctest.Wait() // until all workers are busy
					return r.page(ctx, c)
				})
				tt.arrange(r)
				r.take(map[int64]int{1: 1, 2: 2, 3: 100, 4: 101}, func(ctx context.Context, m Message) error {
					if m.GlobalPosition == 4 {
						return ctx.Err()
					}
					return nil
				})
				err := r.run()
				var h *HandlerError
				var p *PanicError
				switch name {
				case "OnProgress":
					if !errors.As(err, &h) || h.Stream != "" || h.Position != 2 || !errors.Is(err, errHandler) {
						t.Errorf("got error %+v", err)
					}
				case "OnLive":
					if !errors.As(err, &h) || h.Stream != "" || h.Position != 0 || !errors.As(err, &p) {
						t.Errorf("got error %+v", err)
					}
				case "a read":
					if err != error(refused) { //nolint:errorlint // the error itself
						t.Errorf("got error %v", err)
					}
				}
				got := slices.Clone(r.diary)
				slices.Sort(got[max(0, len(got)-4):]) // those that end at the same time
				want := strings.Split(tt.want, ", ")
				slices.Sort(want[max(0, len(want)-4):])
				if !slices.Equal(got, want) {
					t.Errorf("got diary %q, want %q", got, want)
				}
			})
		})
	}
}

// TestWorkersEnds checks that when the context ends, the subscription returns the cause
// after its handlers have returned, also if one of them returns the context's error. Its
// message is not handled then.
func TestWorkersEnds(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]error{"handlers come to an end": nil, "a handler says so": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rehearse(t, 10, WithBatchSize(20), WithWorkers(3))
				separate(r)
				r.arrivals = []int{0, 0}
				r.take(map[int64]int{1: 1, 2: 100, 3: 100, 4: 5}, func(ctx context.Context, m Message) error {
					switch m.GlobalPosition {
					case 4:
						r.end(errEnd)
					case 3:
						return says
					}
					return nil
				})
				told := r.onProgress
				r.onProgress = positions(func(ctx context.Context, position int64) error {
					if ctx.Err() != nil {
						t.Errorf("OnProgress: got a context with error %v", ctx.Err())
					}
					return told(ctx, source.At(position))
				})
				err := r.run()
				progress := "progress 4"
				if says != nil {
					progress = "progress 2"
				}
				if err != errEnd { //nolint:errorlint // the cause itself
					t.Errorf("got error %v, want %v", err, errEnd)
				}
				if last := r.diary[len(r.diary)-1]; last != progress || slices.Contains(r.diary, "handled 5") {
					t.Errorf("got diary %q, want %q at its end", r.diary, progress)
				}
			})
		})
	}
}

// TestWorkersWorker checks that streams of one cardinal ID have the same worker, which
// has the number of the member in a group of that size, and that the streams of one member
// of a group are spread over all workers.
func TestWorkersWorker(t *testing.T) {
	t.Parallel()
	const workers, ids = 4, 4000
	alone := &workerSet{workers: make([]worker, workers), group: 1}
	member := &workerSet{workers: make([]worker, workers), group: workers}
	count := make(map[*worker]int)
	members := 0
	for n := range ids {
		stream, sibling := StreamName(fmt.Sprintf("c-%d", n)), StreamName(fmt.Sprintf("c-%d+x", n))
		hash := Hash64(stream.CardinalID())
		number := max(hash, -hash) % workers
		if alone.worker(stream) != &alone.workers[number] || alone.worker(sibling) != alone.worker(stream) || member.worker(sibling) != member.worker(stream) {
			t.Errorf("stream %s has another worker than its cardinal ID", stream)
		}
		if number == 1 {
			members++
			count[member.worker(stream)]++
		}
	}
	for i := range member.workers {
		if n := count[&member.workers[i]]; n < members/workers*8/10 {
			t.Errorf("worker %d: got %d of a member's %d streams", i, n, members)
		}
	}
	none := Hash64("")
	if alone.worker("c") != &alone.workers[max(none, -none)%workers] {
		t.Error("a stream without an ID has another worker than the empty ID")
	}
}

// TestWorkersStopsReadingBytes checks that with a worker that does not finish, reads stop when as
// many bytes are in progress as are allowed, although they are few messages.
func TestWorkersStopsReadingBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const messages, most = 50, 3
		r := rehearse(t, messages, WithBatchBytes(most*1000), WithWorkers(4))
		separate(r)
		reads := 0
		r.subscription.page = func(_ context.Context, q question) (a answer, _ error) {
			reads++
			a.messages = r.read(readConfig{position: q.from.Position + 1, batchSize: most})
			a.more = len(a.messages) == most
			for i := range a.messages {
				a.messages[i].Data = make([]byte, 1000)
			}
			return a, nil
		}
		goOn := make(chan struct{})
		r.handler = func(_ context.Context, m Message) error {
			if m.GlobalPosition == 1 {
				<-goOn
			}
			return nil
		}
		done := make(chan error)
		go func() { done <- r.run() }()
		synctest.Wait()
		if reads != 1 { // its bytes are more than allowed, because of the names
			t.Errorf("got %d reads, want 1", reads)
		}
		close(goOn)
		if err := <-done; !errors.Is(err, errEnd) || reads != messages/most+1 {
			t.Errorf("got %d reads, error %v", reads, err)
		}
	})
}
