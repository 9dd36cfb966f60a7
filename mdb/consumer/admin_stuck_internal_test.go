package consumer

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A surveyed consumer has two categories with three partitions, of which the process a has 0 and 1, and b has 2. b does not read the
// category other. Everything is handled.
type surveyed struct {
	survey

	a, b *MemberStatus
}

func newSurveyed() *surveyed {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := &surveyed{survey: survey{Consumer: ledger.Consumer{
		Name: "c", Categories: []string{"main", "other"}, Partitions: 3, Members: 2, Now: now,
	}}}
	both := []mdb.Category{"main", "other"}
	s.processes = []MemberStatus{
		{ID: uuid.UUID{1}, Categories: both, Alive: true, Seen: now, Lease: 10 * time.Second, MaxParked: 100},
		{ID: uuid.UUID{2}, Categories: both[:1], Alive: true, Seen: now, Lease: 20 * time.Second, MaxParked: -1},
	}
	s.a, s.b = &s.processes[0], &s.processes[1]
	for _, category := range both {
		for i := range 3 {
			s.checkpoints = append(s.checkpoints, PartitionStatus{
				Category: category, Partition: i, Position: 40, Member: uuid.UUID{1 + byte(i/2)}, Stored: now.Add(-time.Hour),
			})
		}
	}
	return s
}

// late gives partitions of the category main a message that was written a while ago.
func (s *surveyed) late(d time.Duration, partitions ...int) {
	for _, i := range partitions {
		s.checkpoints[i].Pending, s.checkpoints[i].Oldest = 1, s.Now.Add(-d)
	}
}

// TestObstacles checks what a consumer is stuck with, and that nothing else is reported.
func TestObstacles(t *testing.T) {
	t.Parallel()
	reason, barrier := "lunch", int64(42)
	for name, test := range map[string]struct {
		change func(s *surveyed)
		want   string // kind, category, partitions, members, position, seconds since then
		text   string
	}{
		"nothing":        {func(*surveyed) {}, "", ""},
		"fresh messages": {func(s *surveyed) { s.late(9*time.Second, 0, 1, 2) }, "", ""},
		"progress":       {func(s *surveyed) { s.late(time.Hour, 0); s.checkpoints[0].Stored = s.Now.Add(-time.Second) }, "", ""},
		"paused":         {func(s *surveyed) { s.Paused = &reason; s.late(time.Hour, 0) }, "paused  [] [] 0 0", "paused: lunch"},
		"not running": {
			func(s *surveyed) { s.Members, s.a.Alive, s.b.Alive = 0, false, false; s.late(time.Hour, 0) },
			"not_running  [] [] 0 0", "no process runs the consumer",
		},
		"unread": {
			func(s *surveyed) { s.Members, s.a.Alive = 1, false },
			"unowned main [0 1] [1] 0 0; unread other [] [] 0 0", "no process reads category other",
		},
		"unowned": {
			func(s *surveyed) { s.checkpoints[1].Member = uuid.Nil },
			"unowned main [1] [] 0 0", "no process has partition 1 of category main",
		},
		"still": {
			func(s *surveyed) { s.late(30*time.Second, 0, 2); s.late(11*time.Second, 1) },
			"still main [0 1 2] [1 2] 0 30", "partitions 0, 1, 2 of category main since 2026-11-01T11:59:30Z",
		},
		"still for the lease of one": {func(s *surveyed) { s.late(15*time.Second, 0, 2) }, "still main [0] [1] 0 15", ""},
		"full":                       {func(s *surveyed) { s.Parked = 100 }, "full  [] [1] 0 0", "100 cardinal IDs are parked"},
		"not full":                   {func(s *surveyed) { s.Parked = 99 }, "", ""},
		"nothing may be parked":      {func(s *surveyed) { s.a.MaxParked = 0 }, "", ""},
		"barrier": {
			func(s *surveyed) {
				s.Barrier, s.BarrierSet, s.uneven = &barrier, &s.a.Seen, []string{"main"}
				s.checkpoints[0].Position, s.checkpoints[2].Position = 39, 38
				s.late(time.Hour, 0, 1, 2)
			},
			"barrier main [0 2] [1 2] 42 0", "a resize waits at position 42 for partitions 0, 2 of category main",
		},
		"even":          {func(s *surveyed) { s.Barrier, s.BarrierSet = &barrier, &s.a.Seen; s.checkpoints[0].Position = 39 }, "", ""},
		"not yet known": {func(s *surveyed) { s.Barrier = &barrier }, "unconfirmed  [] [1 2] 42 0", "2 processes have not confirmed"},
		"unconfirmed": {
			func(s *surveyed) { s.Barrier, s.BarrierSet = &barrier, &s.Now; s.b.Seen = s.Now.Add(-1) },
			"unconfirmed  [] [2] 42 0", "1 processes have not confirmed",
		},
		"unconfirmed after the resize": {
			func(s *surveyed) { s.unconfirmed = []uuid.UUID{{2}} },
			"unconfirmed  [] [2] 0 0", "before 1 processes have confirmed the last resize",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSurveyed()
			test.change(s)
			var got, texts []string
			for _, o := range s.obstacles() {
				var members []int
				for _, m := range o.Members {
					members = append(members, int(m[0]))
				}
				since := 0
				if !o.Since.IsZero() {
					since = int(s.Now.Sub(o.Since).Seconds())
				}
				got = append(got, fmt.Sprint(string(o.Kind), " ", string(o.Category), " ", o.Partitions, " ", members, " ", o.Position, " ", since))
				texts = append(texts, o.Text)
			}
			if text := strings.Join(got, "; "); text != test.want || !strings.Contains(strings.Join(texts, "\n"), test.text) {
				t.Errorf("got %q, %q, want %q, %q", text, texts, test.want, test.text)
			}
		})
	}
}

// TestInfo checks that the limit of what is parked is read from the description of a process, and that other texts are left as they are.
func TestInfo(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 100} {
		if rest, limit := readInfo(info(n)); limit != n || !strings.Contains(rest, ", process ") || strings.Contains(rest, "parks") {
			t.Errorf("got %q, %d, want %d", rest, limit, n)
		}
	}
	for _, other := range []string{"", "host, process 1", "host, process 1, parks up to many"} {
		if rest, limit := readInfo(other); rest != other || limit != -1 {
			t.Errorf("got %q, %d, want %q", rest, limit, other)
		}
	}
	if s := newSurveyed(); reflect.DeepEqual(s.obstacles(), []Obstacle(nil)) {
		t.Error("got nil, which is null in JSON, want an empty slice")
	}
}
