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

// often cuts a connection after every so many messages of any kind.
func often(nth int) func(side, string) verdict {
	n := 0
	return func(side, string) verdict {
		if n++; n%nth == 0 {
			return verdict{do: cut}
		}
		return verdict{}
	}
}

// oftenRows cuts a connection within rows, so that what fails is a read of some.
func oftenRows(nth int) func(side, string) verdict {
	rows := often(nth)
	return func(from side, message string) verdict {
		if message != "DataRow" {
			return verdict{}
		}
		return rows(from, message)
	}
}

// single makes a store that does not repeat anything.
var single = mdb.WithRetry(mdb.RetryPolicy{Attempts: 1})

// Broken writers.

// hasty takes a write for done when it is sent.
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

// forgetful takes a write of unknown outcome for one that has not happened.
func forgetful(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	written, err := writeByMDB(ctx, s, o)
	if unknown := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &unknown) {
		return nil, errors.New("failed")
	}
	return written, err
}

// minting gives the messages new IDs each time that it tries.
func minting(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	for {
		written, err := writeByMDB(ctx, s, o)
		if unknown := (*mdb.UnknownOutcomeError)(nil); !errors.As(err, &unknown) {
			return written, err
		}
		for i := range o.ids {
			o.ids[i] = uuid.New()
		}
		o.expected = nil // or the second attempt would be refused where the first has happened
	}
}

// Broken consumers: they read pages themselves.

type pages struct {
	read  func(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error)
	again bool // a page of which reading on fails is handled again
	early bool // progress is told before the page is handled
	never bool // progress is not told
	skips bool // a page of which the read fails is passed
	off   int64
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
			few := *sub
			few.Batch = 10 // fewer rows than are let through between two cuts
			if lost, err := readPage(ctx, s, &few, position); err == nil && len(lost) > 0 {
				position = lost[len(lost)-1].GlobalPosition
			}
		}
		if len(page) == 0 {
			settle()
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
	opts := []mdb.CategoryReadOption{mdb.AfterGlobalPosition(position), mdb.WithBatchSize(sub.Batch)}
	if sub.Of > 0 {
		opts = append(opts, mdb.AsConsumerGroup(sub.Member, sub.Of))
	}
	return s.GetCategoryMessages(ctx, sub.Category, opts...)
}

// backwards reads a page in the order that the server happened to send.
func backwards(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error) {
	page, err := readPage(ctx, s, sub, position)
	if len(page) > 1 {
		last := len(page) - 1
		slices.Reverse(page[:last]) // the end of the page is still the end
	}
	return page, err
}

// wrongSize has members that do not agree on how many they are.
func wrongSize(ctx context.Context, s *mdb.Store, sub *subscriber, position int64) ([]mdb.Message, error) {
	other := *sub
	if sub.Member == 0 && sub.Of > 0 {
		other.Of = 1
	}
	return readPage(ctx, s, &other, position)
}

// leaky leaves something behind each life.
func leaky(until <-chan struct{}) consumer {
	return func(ctx context.Context, s *mdb.Store, sub *subscriber, from int64, h mdb.Handler, progress func(context.Context, int64) error) error {
		go func() { <-until }()
		return consumeByMDB(ctx, s, sub, from, h, progress)
	}
}

// failing makes every nth call of a handler fail.
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

// categoryKinds are subscribers to categories alone, which broken consumers can serve.
func categoryKinds(w *world, category mdb.Category) (subs []*subscriber) {
	for _, s := range w.allKinds(category) {
		if s.Stream == "" && s.Correlation == "" {
			subs = append(subs, s)
		}
	}
	return subs
}

// TestValidators has each validator find what a client does wrong on purpose.
func TestValidators(t *testing.T) {
	pgtest.NeedTime(t)
	for _, tt := range []struct {
		validator, fault string
		prepare          func(w *world, p *proxy)
	}{
		{"Durable", "a write acknowledged before the server has", func(w *world, p *proxy) {
			w.write, w.options = hasty, []mdb.StoreOption{single}
			p.script(often(41))
		}},
		{"NoGhost", "an unknown outcome taken for a failure", func(w *world, p *proxy) {
			w.write, w.options = forgetful, []mdb.StoreOption{single}
			p.script(often(41))
		}},
		{"Once", "a new ID for each attempt", func(w *world, p *proxy) {
			w.write, w.options = minting, []mdb.StoreOption{single}
			p.script(often(41))
		}},
		{"Ordered", "messages in the order in which they come", func(w *world, _ *proxy) {
			w.consume = pages{read: backwards}.consume
		}},
		{"Ordered", "a page handled again after a failed read", func(w *world, p *proxy) {
			w.consume = pages{again: true}.consume
			p.script(often(97))
		}},
		{"Reliable", "a failed read taken for the end", func(w *world, p *proxy) {
			w.consume = pages{skips: true}.consume
			p.script(oftenRows(47))
		}},
		{"Reliable", "progress told before the handler has run", func(w *world, _ *proxy) {
			w.consume, w.fail = pages{early: true}.consume, failing(40)
		}},
		{"Resumable", "going on one message too late", func(w *world, _ *proxy) {
			w.consume, w.fail = pages{off: 1}.consume, failing(40)
		}},
		{"Bounded", "progress never told", func(w *world, _ *proxy) {
			w.consume, w.fail = pages{never: true}.consume, failing(400)
		}},
		{"Isolation", "members that disagree on their number", func(w *world, _ *proxy) {
			w.consume = pages{read: wrongSize}.consume
		}},
		{"Leak", "a goroutine left behind", func(w *world, _ *proxy) {
			w.consume, w.grace = leaky(t.Context().Done()), time.Second
		}},
	} {
		t.Run(tt.validator+"/"+tt.fault, func(t *testing.T) {
			url := database(t)
			p := newProxy(t, url)
			w := newWorld(url, p.url(), *seedFlag)
			w.messages, w.chain, w.subscribe, w.patience = 300, false, categoryKinds, 10*time.Second
			w.categories = 1
			tt.prepare(w, p)
			violations := w.run(t, func(ctx context.Context) error {
				<-ctx.Done()
				p.script(nil)
				return nil
			})
			if len(violations[tt.validator]) == 0 {
				t.Errorf("%s finds nothing; found was %v (seed %d)", tt.validator, violations, *seedFlag)
			}
			t.Logf("%s finds %d violations", tt.validator, len(violations[tt.validator]))
		})
	}
}
