package consumer_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestRunSeveral checks that the end of one consumer ends the others, which leave, and that the
// first one's error is returned.
func TestRunSeveral(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	if _, err := s.WriteMessage(t.Context(), "signup-ann", mdb.NewMessage("SignedUp", nil)); err != nil {
		t.Fatal(err)
	}
	ends := errors.New("broken")
	handled := make(chan struct{})
	first := mustNew(t, s, "first", func(context.Context, mdb.Message) error {
		close(handled)
		return nil
	})
	second := mustNew(t, s, "second", func(context.Context, mdb.Message) error {
		<-handled
		return consumer.Stop(ends)
	})
	var failed *mdb.HandlerError
	if err := consumer.Run(t.Context(), first, second); !errors.As(err, &failed) || !errors.Is(err, ends) {
		t.Errorf("got error %v, want the handler's", err)
	}
	var members int
	if err := s.Pool().QueryRow(t.Context(), "SELECT count(*) FROM message_store_consumers.members").Scan(&members); err != nil || members != 0 {
		t.Errorf("got %d members and error %v, want none", members, err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errEnough)
	if err := consumer.Run(ctx, first, second); !errors.Is(err, errEnough) {
		t.Errorf("got error %v, want the cause of the context", err)
	}
	if err := consumer.Run(t.Context()); !errors.As(err, new(*mdb.ArgumentError)) {
		t.Errorf("got error %v without consumers, want an ArgumentError", err)
	}
}

func mustNew(t *testing.T, s *mdb.Store, name string, h mdb.Handler) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New(s, name, "signup", consumer.Each(h))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRunArguments checks what consumer.Run rejects, before it does anything.
func TestRunArguments(t *testing.T) {
	t.Parallel()
	each := func(store *mdb.Store, name string) *consumer.Consumer {
		c, err := consumer.New(store, name, "signup", consumer.Each(func(context.Context, mdb.Message) error { return nil }))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	store := new(mdb.Store) // which does no I/O, and panics if it is used
	for want, consumers := range map[string][]*consumer.Consumer{
		"consumers: got none, want at least one":                                              nil,
		"consumers: got nil, want what New has returned":                                      {each(store, "a"), nil},
		`consumers: got "a" twice, want each name once`:                                       {each(store, "a"), each(store, "b"), each(store, "a")},
		`consumers: got nil, want what New has returned; consumers: got "a" twice, want each`: {nil, each(store, "a"), each(store, "a")},
	} {
		err := consumer.Run(t.Context(), consumers...)
		if !errors.As(err, new(*mdb.ArgumentError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
