package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// with returns a clinic that runs the same consumer with other options.
func (c *clinic) with(opts ...consumer.Option) *clinic {
	c.Helper()
	other := &clinic{T: c.T, store: c.store, ill: c.ill, handled: c.handled, changed: c.changed}
	var err error
	if other.c, err = consumer.New(c.store, "clinic", "patient", consumer.Each(other.handle), opts...); err != nil {
		c.Fatal(err)
	}
	return other
}

// TestAdminKeepAlone checks that each message is handled once, in order, after a seek back that keeps what is parked, if messages of
// a stream were parked alone, and the stream was parked after them, or is parked before them after the seek.
func TestAdminKeepAlone(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("parked before them: %t", before), func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, "Each", consumer.ParkAlone())
			o, stream := consumer.Admin(c.store.Pool()), c.with()
			c.ill["patient-1"] = !before
			c.write("patient-1")
			c.catchUp()
			c.ill["patient-1"] = true
			c.write("patient-1", "patient-1")
			c.catchUp()
			if !before {
				c.write("patient-1")
				stream.catchUp()
			}
			alone, want := len(c.rows()), []string{"patient-1/0", "patient-1/1", "patient-1/2", "patient-1/3"}[:len(c.rows())+len(c.of("1"))]
			if _, err := o.Seek(t.Context(), "clinic", consumer.ToBeginning(), consumer.KeepParked()); err != nil {
				t.Fatal(err)
			}
			clear(c.handled)
			stream.catchUp()
			if got := c.rows(); len(got) != 1 || alone < 2 || len(c.of("1")) > 0 {
				t.Errorf("parked: got %v after %d, want the stream", got, alone)
			}
			c.heal("patient-1")
			if _, err := o.Replay(t.Context(), "clinic"); err != nil {
				t.Fatal(err)
			}
			stream.catchUp()
			if got := c.of("1"); !slices.Equal(got, want) || len(c.rows()) > 0 {
				t.Errorf("got %v and parked %v, want %v", got, c.rows(), want)
			}
		})
	}
}

// TestAdminSkipAhead checks that a skip of a message that was parked alone fails if the process is before the message, as after a
// seek back that keeps what is parked, and that it succeeds after the process has passed the message.
func TestAdminSkipAhead(t *testing.T) {
	t.Parallel()
	c := newClinic(t, "Each", consumer.ParkAlone())
	o, ctx := consumer.Admin(c.store.Pool()), t.Context()
	c.ill["patient-1"] = true
	c.write("patient-1")
	c.catchUp()
	if err := o.Pause(ctx, "clinic", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Seek(ctx, "clinic", consumer.ToBeginning(), consumer.KeepParked()); err != nil {
		t.Fatal(err)
	}
	c.run()
	c.until("the process", func() bool {
		d, err := o.Show(ctx, "clinic")
		return err == nil && d.Checkpoints[0].Member != uuid.Nil && d.Checkpoints[1].Member != uuid.Nil
	})
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var conflict *consumer.ConflictError
	if err := o.Skip(limited, "clinic", "patient-1", consumer.AndWaiting()); !errors.As(err, &conflict) || !strings.Contains(conflict.Problem, "has not stored yet") || limited.Err() != nil {
		t.Errorf("got %v, want a ConflictError", err)
	}
	if err := o.Resume(ctx, "clinic"); err != nil {
		t.Fatal(err)
	}
	c.until("the message is passed", func() bool {
		d, err := o.Show(ctx, "clinic")
		return err == nil && d.Pending == 0
	})
	if err := o.Skip(ctx, "clinic", "patient-1"); err != nil {
		t.Error(err)
	}
	c.heal("patient-1")
	c.write("patient-1")
	c.until("the next message", func() bool { return len(c.of("1")) > 0 })
	if got, want := c.of("1"), []string{"patient-1/1"}; !slices.Equal(got, want) || len(c.rows()) > 0 {
		t.Errorf("got %v and parked %v, want %v", got, c.rows(), want)
	}
}

// TestParkedAloneDeleted checks with handlers of all forms that CatchUp returns if somebody has deleted a message that is parked alone, and
// that the message is no longer parked.
func TestParkedAloneDeleted(t *testing.T) {
	t.Parallel()
	for _, form := range someForms() {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, form, consumer.ParkAlone())
			c.ill["patient-1"] = true
			c.write("patient-1", "patient-1", "patient-1")
			c.catchUp()
			if _, err := c.store.Pool().Exec(t.Context(), "DELETE FROM message_store.messages WHERE stream_name = 'patient-1' AND position <> 1"); err != nil {
				t.Fatal(err)
			}
			c.heal("patient-1")
			if _, err := consumer.Admin(c.store.Pool()).Replay(t.Context(), "clinic"); err != nil {
				t.Fatal(err)
			}
			c.catchUp()
			if got, want := c.of("1"), []string{"patient-1/1"}; !slices.Equal(got, want) || len(c.rows()) > 0 {
				t.Errorf("got %v and parked %v, want %v", got, c.rows(), want)
			}
		})
	}
}
