package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// catchUpCase is the case of a handler that takes a time for each message.
func catchUpCase(each time.Duration) string {
	return fmt.Sprintf("Catch up with a category of %d messages, each of which takes %d µs", sharedMessages, each.Microseconds())
}

// pageByPage is the variant that reads a page when the handler is done with the one before.
func pageByPage(name string) string { return name + ", page by page" }

// catchUp compares subscriptions, which read ahead, with the same reads page by page.
func (b *builder) catchUp() {
	for _, each := range []time.Duration{0, time.Microsecond, 10 * time.Microsecond} {
		op := func(subscribe func(context.Context, mdb.Category, mdb.Handler) error) func(context.Context) error {
			return func(ctx context.Context) error {
				n := 0
				err := subscribe(ctx, "shared0", func(context.Context, mdb.Message) error {
					if each > 0 {
						for begin := time.Now(); time.Since(begin) < each; {
							continue
						}
					}
					if n++; n == sharedMessages {
						return errEnough
					}
					return nil
				})
				if errors.Is(err, errEnough) {
					return nil
				}
				return err
			}
		}
		var variants []variant
		for _, s := range []namedStore{{proceduresName, b.e.store}, {directName, b.e.direct}} {
			variants = append(variants,
				variant{name: s.name, op: op(func(ctx context.Context, category mdb.Category, h mdb.Handler) error {
					return s.store.SubscribeToCategory(ctx, category, h)
				})},
				variant{name: pageByPage(s.name), op: op(func(ctx context.Context, category mdb.Category, h mdb.Handler) error {
					return handlePages(ctx, s.store, category, h)
				})})
		}
		b.add(benchCase{name: catchUpCase(each), messages: sharedMessages, variants: variants})
	}
}

// handlePages reads the pages that a subscription reads, and remembers as much of them.
func handlePages(ctx context.Context, s *mdb.Store, category mdb.Category, h mdb.Handler) error {
	open := source.Opener.(func(*mdb.Store, mdb.Category, source.Hooks) (*source.Opened[mdb.Message], error)) //nolint:forcetypeassert // what mdb sets
	pages, err := open(s, category, source.Hooks{})
	if err != nil {
		return err
	}
	for at, full := source.At(0), true; full; {
		page, err := pages.Next(ctx, at, mdb.DefaultBatchSize)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if err := h(ctx, m); err != nil {
				return err
			}
		}
		at, full = page.End, page.Full
	}
	return errors.New("the category has fewer messages than were written to it")
}

// catchUpBounds are the least that reading ahead gains.
var catchUpBounds = func() (bounds []bound) {
	for _, name := range []string{proceduresName, directName} {
		bounds = append(bounds, bound{
			what: "catch-up with a handler of 1 µs, " + pageByPage(name) + " ÷ reading ahead", inCase: catchUpCase(time.Microsecond),
			slow: pageByPage(name), fast: name, least: 1.15,
		})
	}
	return bounds
}()
