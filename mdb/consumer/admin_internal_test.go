package consumer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

var (
	errGoesOff = errors.New("goes off")
	errEndsNow = errors.New("ends ctx")
)

// TestWaitUntil checks that a wait looks again until it is over, seldom after a while, and that it ends with ctx.
func TestWaitUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun, looks := time.Now(), 0
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		err := waitUntil(ctx, func() (bool, error) {
			looks++
			return time.Since(begun) >= time.Minute, nil
		})
		if waited := time.Since(begun); err != nil || waited > time.Minute+waitRetry.Max || looks < 200 || looks > 1000 {
			t.Errorf("got %v after %v and %d looks, want the end of a minute after a look each quarter of a second", err, waited, looks)
		}
		if err := waitUntil(ctx, func() (bool, error) { return false, ErrParked }); !errors.Is(err, ErrParked) {
			t.Errorf("got %v, want the error", err)
		}
		begun, looks = time.Now(), 0
		time.AfterFunc(time.Second, func() { cancel(errGoesOff) })
		if err := waitUntil(ctx, func() (bool, error) { looks++; return false, nil }); !errors.Is(err, errGoesOff) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %v, want the cause after a second", err, time.Since(begun))
		}
		if err := waitUntil(ctx, func() (bool, error) { return false, errors.New("of the end") }); !errors.Is(err, errGoesOff) {
			t.Errorf("got %v, want the cause", err)
		}
		if err := waitUntil(ctx, func() (bool, error) { return true, nil }); err != nil {
			t.Errorf("got %v, want what is reached, although ctx has ended", err)
		}
	})
}

// TestResizeSteps checks that a resize is repeated until it is done, more often than its barrier lasts, and undone unless it is.
func TestResizeSteps(t *testing.T) {
	t.Parallel()
	barrier := int64(42)
	waits := resizing{Resized: ledger.Resized{Barrier: &barrier, Waiting: 3}, running: 1}
	failed := &pgconn.PgError{Severity: "ERROR", Message: "failed"}
	cut := errors.New("connection cut")
	type outcome struct {
		resizing
		error
	}
	done := outcome{resizing{Resized: ledger.Resized{Done: true}}, nil}
	unread := outcome{resizing{Resized: ledger.Resized{Barrier: &barrier, Unread: []string{"a"}}, running: 1}, nil}
	abandoned := outcome{resizing{Resized: waits.Resized}, nil}
	paused := outcome{resizing{Resized: waits.Resized, running: 1, paused: true}, nil}
	even := outcome{resizing{Resized: ledger.Resized{Barrier: &barrier}, running: 1, paused: true}, nil}
	const wanted = 8
	for name, test := range map[string]struct {
		steps  []outcome // the last one is repeated
		undone int
		want   string
		undo   outcome
	}{
		"immediately":       {[]outcome{done}, 0, "<nil>", outcome{}},
		"after a while":     {append(slices.Repeat([]outcome{{waits, nil}}, 100), done), 0, "<nil>", outcome{}},
		"never":             {[]outcome{{waits, nil}}, 1, "3 checkpoints have not reached position 42", outcome{}},
		"unread":            {[]outcome{{waits, nil}, unread}, 1, "no process reads the categories [a]", outcome{}},
		"nobody":            {[]outcome{abandoned}, 1, "no process runs it", outcome{}},
		"nobody any more":   {[]outcome{{waits, nil}, abandoned}, 1, "no process runs it", outcome{}},
		"paused":            {[]outcome{{waits, nil}, paused}, 1, "it is paused", outcome{}},
		"paused, but even":  {[]outcome{even, done}, 0, "<nil>", outcome{}},
		"no consumer":       {[]outcome{{error: &NotFoundError{"c"}}}, 0, "no consumer", outcome{}},
		"an error":          {[]outcome{{error: failed}}, 1, "failed", outcome{error: cut}},
		"deleted meanwhile": {[]outcome{{waits, nil}, {error: &NotFoundError{"c"}}}, 1, "no consumer", outcome{}},

		"lost, and not changed": {[]outcome{{waits, nil}, {error: cut}}, 1, "connection cut", outcome{resizing{partitions: 3}, nil}},
		"lost, and changed":     {[]outcome{{waits, nil}, {error: cut}}, 1, "<nil>", outcome{resizing{partitions: wanted}, nil}},
		"lost, and not known":   {[]outcome{{waits, nil}, {error: cut}}, 1, "resize c: it is not known whether the number was changed: connection cut", outcome{error: cut}},
		"ended, and changed":    {[]outcome{{waits, nil}, {error: errEndsNow}}, 1, "<nil>", outcome{resizing{partitions: wanted}, nil}},
		"ended, and not known":  {[]outcome{{waits, nil}, {error: errEndsNow}}, 1, "it is not known whether the number was changed: goes off", outcome{error: cut}},
		"ended, and not changed": {
			[]outcome{{waits, nil}, {error: errEndsNow}}, 1, "3 checkpoints have not reached position 42", outcome{resizing{partitions: 3}, nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithTimeoutCause(t.Context(), time.Hour, errGoesOff)
				defer stop()
				ctx, cancel := context.WithCancelCause(ctx)
				defer cancel(nil)
				n, undone, last := 0, 0, time.Now()
				r := &resize{"resize c", "c", wanted, func(context.Context) (resizing, error) {
					if d := time.Since(last); d > barrierPatience/10 {
						t.Errorf("a step comes after %v, when the barrier has nearly ended", d)
					}
					last = time.Now()
					step := test.steps[min(n, len(test.steps)-1)]
					n++
					if errors.Is(step.error, errEndsNow) {
						cancel(errGoesOff)
					}
					return step.resizing, step.error
				}, func() (int, error) { undone++; return test.undo.partitions, test.undo.error }}
				err := r.run(ctx)
				text := "<nil>"
				if err != nil {
					text = err.Error()
				}
				if !strings.Contains(text, test.want) || undone != test.undone {
					t.Errorf("got %q, undone %d times, want %q, %d", text, undone, test.want, test.undone)
				}
				if name == "never" && !errors.Is(err, errGoesOff) {
					t.Errorf("got %v, want the cause", err)
				}
			})
		})
	}
}

// TestRepeat checks that a change is repeated as long as locks are not free, a few times after deadlocks, and for some seconds while a
// process has not stored its progress, but not after other errors, and that it ends with ctx.
func TestRepeat(t *testing.T) {
	t.Parallel()
	const locked, deadlock, conflict = "55P03", "40P01", ledger.Conflict
	for _, test := range []struct {
		name        string
		codes       []string // of each call; the last one is repeated
		least, most int      // calls
	}{
		{"without an error", []string{""}, 1, 1},
		{"a conflict", []string{conflict}, 1, 1},
		{"locks", append(slices.Repeat([]string{locked}, 50), conflict), 51, 51},
		{"locks until the end", []string{locked}, 100, 1e6},
		{"deadlocks", []string{deadlock}, adminAttempts, adminAttempts},
		{"not stored", []string{ledger.Unstored}, 3, 20},
		{"not stored after locks", append(slices.Repeat([]string{locked}, 50), ledger.Unstored), 53, 70},
		{"stored", []string{ledger.Unstored, ledger.Unstored, ""}, 3, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				calls, code := 0, ""
				err := repeat(ctx, func() error {
					code = test.codes[min(calls, len(test.codes)-1)]
					if calls++; code == "" {
						return nil
					}
					return &pgconn.PgError{Severity: "ERROR", Code: code}
				})
				if codeOf(err) != code || calls < test.least || calls > test.most || (ctx.Err() != nil) != (test.most == 1e6) {
					t.Errorf("got %v after %d calls, %v, want the last error after %d to %d", err, calls, ctx.Err(), test.least, test.most)
				}
			})
		})
	}
}
