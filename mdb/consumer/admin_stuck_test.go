package consumer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// kinds returns the kinds of what a consumer is stuck with.
func kinds(s *consumer.Status) (kinds []consumer.ObstacleKind) {
	for i := range s.Stuck {
		kinds = append(kinds, s.Stuck[i].Kind)
	}
	return kinds
}

// TestAdminStuck checks that a consumer that can park no more is shown with what stands still, and with what is parked.
func TestAdminStuck(t *testing.T) {
	t.Parallel()
	const lease = 3 * time.Second // after which a partition stands still
	c := newClinic(t, "Each", consumer.MaxParked(1), consumer.WithLease(lease))
	o := consumer.Admin(c.store.Pool())
	c.ill["patient-1"] = true
	c.write("patient-1", "patient-1+b", "patient-1", "patient-2")
	c.catchUp()
	d, err := o.Show(t.Context(), "clinic")
	if err != nil || !slices.Equal(kinds(&d.Status), []consumer.ObstacleKind{consumer.ObstacleNotRunning}) || len(d.ParkedKeys) != 1 {
		t.Fatalf("got %+v, %v, want that nobody runs it", d, err)
	}
	if k := d.ParkedKeys[0]; k.Category != "patient" || k.Key != "1" || k.Stream != "patient-1" || k.Position != 0 || k.Streams != 2 || k.Messages != 3 || k.Attempts != 1 ||
		k.Error != "*errors.errorString" || k.Due.Before(k.ParkedAt) || k.ParkedAt.IsZero() {
		t.Errorf("got %+v", k)
	}
	partition := d.ParkedKeys[0].Partition

	var second mdb.StreamName // in the other partition
	for i := 3; second == ""; i++ {
		if s := mdb.StreamName("patient-" + strings.Repeat("x", i)); int(mod(mdb.Hash64(s.CardinalID()), 2)) != partition {
			second = s
		}
	}
	c.ill[second] = true
	c.write(second)
	c.run()
	c.until("a partition stands still", func() bool {
		d, err = o.Show(t.Context(), "clinic")
		return err == nil && slices.Equal(kinds(&d.Status), []consumer.ObstacleKind{consumer.ObstacleFull, consumer.ObstacleStill})
	})
	full, still := d.Stuck[0], d.Stuck[1]
	if !slices.Equal(full.Members, []uuid.UUID{d.Processes[0].ID}) || d.Processes[0].MaxParked != 1 || strings.Contains(d.Processes[0].Info, "parks") {
		t.Errorf("got %+v, %+v", full, d.Processes)
	}
	written, err := c.store.GetLastStreamMessage(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	if still.Category != "patient" || !slices.Equal(still.Partitions, []int{1 - partition}) || !slices.Equal(still.Members, full.Members) ||
		still.Since.Before(written.Time) || d.At.Sub(still.Since) < lease {
		t.Errorf("got %+v, want the other partition, at least since %v", still, written.Time)
	}
	list, err := o.List(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Stuck) != 2 {
		t.Errorf("got %+v, %v, want what Show says", list, err)
	}

	if err := errors.Join(o.Pause(t.Context(), "clinic", "lunch"), o.Skip(t.Context(), "clinic", "patient-1", consumer.AndWaiting())); err != nil {
		t.Fatal(err)
	}
	if d, err = o.Show(t.Context(), "clinic"); err != nil || !slices.Contains(kinds(&d.Status), consumer.ObstaclePaused) || slices.Contains(kinds(&d.Status), consumer.ObstacleStill) {
		t.Errorf("got %+v, %v, want a pause only", d.Stuck, err)
	}
	if err := o.Resume(t.Context(), "clinic"); err != nil {
		t.Fatal(err)
	}
	c.heal("patient-1", second)
	c.until("nothing stands still", func() bool {
		d, err = o.Show(t.Context(), "clinic")
		return err == nil && len(d.Stuck) == 0 && d.Pending == 0 && len(d.ParkedKeys) == 0
	})
}

func mod(hash int64, n int64) int64 { return max(hash%n, -(hash % n)) }

// pretend adds members that no process is.
func (c *clinic) pretend(id uuid.UUID, silent time.Duration) {
	c.Helper()
	if _, err := c.store.Pool().Exec(c.Context(), `INSERT INTO message_store_consumers.members (id, consumer, categories, info, layout, lease, seen)
		SELECT $1, c.id, c.categories, 'an older release', c.layout, '1 minute', clock_timestamp() - $2::interval FROM message_store_consumers.consumers AS c`, id, silent); err != nil {
		c.Fatal(err)
	}
}

// TestAdminStuckUnowned checks that partitions of a process whose lease has ended are reported with it, and categories that nobody
// reads.
func TestAdminStuckUnowned(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t)
	alive, dead := uuid.New(), uuid.New()
	c.pretend(alive, 0)
	c.pretend(dead, time.Hour)
	for _, statement := range []string{
		`UPDATE message_store_consumers.checkpoints SET member = CASE partition WHEN 0 THEN $1::uuid ELSE $2::uuid END`,
		`INSERT INTO message_store_consumers.checkpoints (consumer, partition, category, position, member)
			SELECT c.id, n, 'visitor', 0, CASE n WHEN 0 THEN $1::uuid ELSE $2::uuid END FROM message_store_consumers.consumers AS c, generate_series(0, 1) AS n`,
		`UPDATE message_store_consumers.consumers SET categories = '{patient,visitor}' WHERE $1::uuid <> $2::uuid`,
	} {
		if _, err := c.store.Pool().Exec(t.Context(), statement, alive, dead); err != nil {
			t.Fatal(err)
		}
	}
	d, err := o.Show(t.Context(), "clinic")
	if err != nil || !slices.Equal(kinds(&d.Status), []consumer.ObstacleKind{consumer.ObstacleUnowned, consumer.ObstacleUnread}) {
		t.Fatalf("got %+v, %v", d.Stuck, err)
	}
	if u := d.Stuck[0]; u.Category != "patient" || !slices.Equal(u.Partitions, []int{1}) || !slices.Equal(u.Members, []uuid.UUID{dead}) || d.Stuck[1].Category != "visitor" {
		t.Errorf("got %+v", d.Stuck)
	}
	i := slices.IndexFunc(d.Processes, func(p consumer.MemberStatus) bool { return p.ID == dead })
	if i < 0 || d.Processes[i].MaxParked != -1 || d.Processes[i].Info != "an older release" || d.Processes[i].Alive {
		t.Errorf("got %+v", d.Processes)
	}
}
