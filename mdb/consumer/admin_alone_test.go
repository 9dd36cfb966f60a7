package consumer_test

import (
	"fmt"
	"slices"
	"testing"

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
