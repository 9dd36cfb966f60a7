package consumer

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestParkFullOnServer checks that a message whose key is parked is parked although there are as many parked keys as
// MaxParked allows, and that others are not.
func TestParkFullOnServer(t *testing.T) {
	t.Parallel()
	s := newStand(t, 0, ownDatabase(t))
	s.observer = s.store.Pool()
	s.next()
	c, err := New(s.store, s.config.consumer, s.category, Each(func(context.Context, mdb.Message) error { return nil }), MaxParked(1))
	if err != nil {
		t.Fatal(err)
	}
	c.member = newMember(memberConfig{})
	c.member.self.Store(&s.member)
	r := &running{Consumer: c, link: besideOf(s.store)}
	d := s.calling(s.messages).deliveries[0]
	park := func(f Failure) error {
		f.Message, f.Attempt, f.Err = d.message, 1, errBroken
		return r.park(t.Context(), &d, f, nil)
	}
	if err := park(Failure{}); err != nil {
		t.Fatal(err)
	}
	if err := park(Failure{}); !errors.Is(err, errParkedFull) {
		t.Fatalf("got %v, want that there are too many", err)
	}
	if err := park(Failure{keyParked: true}); err != nil {
		t.Error(err)
	}
	if position, times := s.parkedAt(); position != d.message.Position || times != 1 {
		t.Errorf("the stream is parked %d times, at %d", times, position)
	}
}

type unprintable struct{}

func (unprintable) Error() string { panic("unprintable") }

// TestErrorTextOfPanic checks that an error is stored whose text cannot be made: a panic there would end the process during a replay.
func TestErrorTextOfPanic(t *testing.T) {
	r := &running{Consumer: &Consumer{config: &config{errorText: true}}}
	if got := r.errorText(Permanent(unprintable{})); !strings.Contains(got, "PANIC") {
		t.Errorf("got %q", got)
	}
}
