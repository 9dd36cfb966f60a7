package chaos

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// often cuts a connection at every nth message of any kind.
func often(nth int) func(side, string) verdict {
	n := 0
	return func(side, string) verdict {
		if n++; n%nth == 0 {
			return verdict{do: cut}
		}
		return verdict{}
	}
}

// oftenRows cuts a connection at every nth row, so that reads of several rows fail.
func oftenRows(nth int) func(side, string) verdict {
	rows := often(nth)
	return func(from side, message string) verdict {
		if message != "DataRow" {
			return verdict{}
		}
		return rows(from, message)
	}
}

// noRetry is the option of a store that does not retry.
var noRetry = mdb.WithRetry(mdb.RetryPolicy{Attempts: 1, For: -1})

// Broken writers.

// hasty treats a write as acknowledged once it is sent.
func hasty(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	written, err := writeByMDB(ctx, s, o)
	if unknown := (*mdb.UnknownOutcomeError)(nil); !errors.As(err, &unknown) {
		return written, err
	}
	for i, id := range o.ids {
		written = append(written, mdb.Written{ID: id, Position: int64(i)})
	}
	return written, nil
}

// forgetful treats a write of unknown outcome as failed.
func forgetful(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	written, err := writeByMDB(ctx, s, o)
	if unknown := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &unknown) {
		return nil, errors.New("failed")
	}
	return written, err
}

// minting gives the messages new IDs for each attempt.
func minting(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	for {
		written, err := writeByMDB(ctx, s, o)
		if unknown := (*mdb.UnknownOutcomeError)(nil); !errors.As(err, &unknown) {
			return written, err
		}
		for i := range o.ids {
			o.ids[i] = uuid.New()
		}
		o.expected = nil // or the second attempt would fail if the first succeeded
	}
}

// Broken consumers, which read pages themselves.

type pages struct {
	read  func(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error)
	again bool  // handle a page again if the read of the next one fails
	early bool  // report progress before the page is handled
	never bool  // do not report progress
	skips bool  // skip a page if its read fails
	off   int64 // start this many positions too late
}

func (b pages) consume(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
	read := b.read
	if read == nil {
		read = readPage
	}
	position := from + b.off
	var last []mdb.Message
	for ctx.Err() == nil {
		page, err := read(ctx, s, sub, position)
		if err != nil && b.again {
			page = last
		}
		if err != nil && b.skips {
			// Fewer rows than there are between two cuts. The lock of the history guards sub's other fields.
			few := subscriber{Category: sub.Category, Member: sub.Member, Of: sub.Of, Batch: 10}
			if skipped, err := readPage(ctx, s, &few, position); err == nil && len(skipped) > 0 {
				position = skipped[len(skipped)-1].GlobalPosition
			}
		}
		if len(page) == 0 {
			tick()
			continue
		}
		end := page[len(page)-1].GlobalPosition
		if b.early {
			_ = progress(ctx, end)
		}
		for _, m := range page {
			if err := h(ctx, m); err != nil {
				return &mdb.HandlerError{}
			}
		}
		if !b.never {
			_ = progress(ctx, end)
		}
		position, last = max(position, end), page
	}
	return ctx.Err()
}

func readPage(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error) {
	opts := []mdb.CategoryOption{mdb.AfterGlobalPosition(position), mdb.WithBatchSize(sub.Batch)}
	if sub.Of > 0 {
		opts = append(opts, mdb.AsConsumerGroup(sub.Member, sub.Of))
	}
	return s.GetCategoryMessages(ctx, sub.Category, opts...)
}

// backwards returns a page in the wrong order.
func backwards(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error) {
	page, err := readPage(ctx, s, sub, position)
	if len(page) > 1 {
		last := len(page) - 1
		slices.Reverse(page[:last]) // the last message stays last, so that progress is right
	}
	return page, err
}

// wrongSize reads as a member that assumes another size of its group.
func wrongSize(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error) {
	other := subscriber{Category: sub.Category, Member: sub.Member, Of: sub.Of, Batch: sub.Batch}
	if sub.Member == 0 && sub.Of > 0 {
		other.Of = 1
	}
	return readPage(ctx, s, &other, position)
}

// leaky leaves a goroutine running after each incarnation.
func leaky(until <-chan struct{}) consumer {
	return func(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
		go func() { <-until }()
		return consumeByMDB(ctx, s, sub, from, h, progress)
	}
}

// failing makes every nth call of the handler fail.
func failing(nth int) func(*subscriber) error {
	counts := make(chan int, 1)
	counts <- 0
	return func(*subscriber) error {
		n := <-counts + 1
		counts <- n
		if n%nth == 0 {
			return errInjected
		}
		return nil
	}
}

var errInjected = errors.New("injected")

// categoryKinds returns the subscribers that the broken consumers support: those to
// categories, without correlation.
func categoryKinds(w *workload, category mdb.Category) (subs []*subscriber) {
	for _, s := range w.allKinds(category) {
		if s.Stream == "" && s.Correlation == "" {
			subs = append(subs, s)
		}
	}
	return subs
}

// TestValidators checks that each validator finds the violations of a client with a
// deliberate bug.
func TestValidators(t *testing.T) {
	pgtest.NeedTime(t)
	for _, tt := range []struct {
		validator, bug string
		prepare        func(w *workload, p *proxy)
	}{
		{"Durable", "a write acknowledged before the server did", func(w *workload, p *proxy) {
			w.write, w.options = hasty, []mdb.StoreOption{noRetry}
			p.onMessage(often(41))
		}},
		{"NoGhost", "an unknown outcome treated as a failure", func(w *workload, p *proxy) {
			w.write, w.options = forgetful, []mdb.StoreOption{noRetry}
			p.onMessage(often(41))
		}},
		{"Once", "a new ID for each attempt", func(w *workload, p *proxy) {
			w.write, w.options = minting, []mdb.StoreOption{noRetry}
			p.onMessage(often(41))
		}},
		{"Ordered", "messages in the wrong order", func(w *workload, _ *proxy) {
			w.consume = pages{read: backwards}.consume
		}},
		{"Ordered", "a page handled again after a failed read", func(w *workload, p *proxy) {
			w.consume = pages{again: true}.consume
			p.onMessage(often(97))
		}},
		{"Reliable", "a page skipped after a failed read", func(w *workload, p *proxy) {
			w.consume = pages{skips: true}.consume
			p.onMessage(oftenRows(47))
		}},
		{"Reliable", "progress reported before the handler has run", func(w *workload, _ *proxy) {
			w.consume, w.failHandler = pages{early: true}.consume, failing(40)
		}},
		{"Resumable", "a start one position too late", func(w *workload, _ *proxy) {
			w.consume, w.failHandler = pages{off: 1}.consume, failing(40)
		}},
		{"Bounded", "progress never reported", func(w *workload, _ *proxy) {
			w.consume, w.failHandler = pages{never: true}.consume, failing(400)
		}},
		{"Isolation", "members that disagree on their number", func(w *workload, _ *proxy) {
			w.consume = pages{read: wrongSize}.consume
		}},
		{"Leak", "a goroutine that never ends", func(w *workload, _ *proxy) {
			w.consume, w.grace = leaky(t.Context().Done()), time.Second
		}},
	} {
		t.Run(tt.validator+"/"+tt.bug, func(t *testing.T) {
			url := database(t)
			p := newProxy(t, url)
			w := newWorkload(url, p.url(), *seedFlag)
			w.messages, w.all, w.chain, w.subscribe, w.timeout = 300, false, false, categoryKinds, 10*time.Second
			w.categories = 1
			tt.prepare(w, p)
			violations := w.run(t, func(ctx context.Context) error {
				<-ctx.Done()
				p.onMessage(nil)
				return nil
			})
			if len(violations[tt.validator]) == 0 {
				t.Errorf("%s finds no violation; all violations: %v (seed %d)", tt.validator, violations, *seedFlag)
			}
			t.Logf("%s finds %d violations", tt.validator, len(violations[tt.validator]))
		})
	}
}
