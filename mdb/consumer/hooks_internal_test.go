package consumer

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestAllocsOfHandling checks that a call of a handler costs the allocation of its context, with hooks and
// without.
func TestAllocsOfHandling(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	called := 0
	hooks := handlingHooks{
		start: func(ctx context.Context, _ mdb.Handling) (context.Context, time.Time) {
			called++
			return ctx, time.Time{}
		},
		end: func(context.Context, mdb.Handling, time.Time, error) { called++ },
	}
	for name, h := range map[string]handlingHooks{"without": {}, "with": hooks} {
		form := Each(func(context.Context, mdb.Message) error { return nil }).form(formConfig{consumer: "name", hooks: h})
		c := call{deliveries: make([]delivery, 1)}
		if got := testing.AllocsPerRun(100, func() {
			if done, err := form.call(t.Context(), c); done != 1 || err != nil {
				t.Fatal(done, err)
			}
		}); got != 1 {
			t.Errorf("%s hooks: got %v allocations, want 1", name, got)
		}
	}
	if called == 0 {
		t.Error("hooks were not called")
	}
}
