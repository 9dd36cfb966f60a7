package consumer

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// An ObstacleKind is a kind of [Obstacle].
type ObstacleKind string

const (
	// ObstaclePaused says that the consumer is paused.
	ObstaclePaused ObstacleKind = "paused"
	// ObstacleNotRunning says that no process runs the consumer.
	ObstacleNotRunning ObstacleKind = "not_running"
	// ObstacleUnread says that no process reads a category.
	ObstacleUnread ObstacleKind = "unread"
	// ObstacleUnowned says that no process has some partitions of a category. Members are those that have had
	// them, and whose leases have ended.
	ObstacleUnowned ObstacleKind = "unowned"
	// ObstacleBarrier says that [Operator.Resize] waits for some partitions of a category, until they have handled what others have.
	// Position is the position at which the processes stop, and Members are those that have the partitions.
	ObstacleBarrier ObstacleKind = "barrier"
	// ObstacleUnconfirmed says that [Operator.Resize] waits until Members have confirmed that they stop at a position. If Position is
	// 0, the number of partitions has changed, and no process gets partitions until Members have confirmed that: until the calls have
	// returned that were running then.
	ObstacleUnconfirmed ObstacleKind = "unconfirmed"
	// ObstacleFull says that as many cardinal IDs are parked as [MaxParked] allows. So what fails now is retried in place, and what
	// comes after it waits.
	ObstacleFull ObstacleKind = "full"
	// ObstacleStill says that some partitions of a category stand still: they have messages, and a process, but for longer than
	// its lease they have stored no progress. Since is when the first of them did so last, or when its first message was written.
	ObstacleStill ObstacleKind = "still"
)

// An Obstacle is a reason why a consumer does not handle messages, or not all. What is not of the Kind is zero.
type Obstacle struct {
	Kind       ObstacleKind `json:"kind"`
	Category   mdb.Category `json:"category,omitempty"`
	Partitions []int        `json:"partitions,omitempty"`
	Members    []uuid.UUID  `json:"members,omitempty"`
	Position   int64        `json:"position,omitempty"`
	Since      time.Time    `json:"since,omitzero"`
	// Text says all of it, for people. Do not match on it.
	Text string `json:"text"`
}

// A survey is what the obstacles of a consumer are found by.
type survey struct {
	ledger.Consumer

	processes   []MemberStatus
	unconfirmed []uuid.UUID // processes in which handlers may be running that were called before the last resize
	checkpoints []PartitionStatus
	uneven      []string // the categories for which a resize waits
}

// obstacles returns what a consumer is stuck with.
func (s *survey) obstacles() []Obstacle {
	found := make([]Obstacle, 0)
	if s.Paused != nil {
		o := Obstacle{Kind: ObstaclePaused, Text: "paused"}
		if *s.Paused != "" {
			o.Text += ": " + *s.Paused
		}
		found = append(found, o)
	}
	if s.Members == 0 {
		return append(found, Obstacle{Kind: ObstacleNotRunning, Text: "no process runs the consumer"})
	}
	if o := s.full(); o != nil {
		found = append(found, *o)
	}
	for _, category := range s.Categories {
		if !slices.ContainsFunc(s.processes, func(p MemberStatus) bool { return p.Alive && slices.Contains(p.Categories, mdb.Category(category)) }) {
			found = append(found, Obstacle{Kind: ObstacleUnread, Category: mdb.Category(category), Text: fmt.Sprintf("no process reads category %s", category)})
			continue
		}
		found = append(found, s.ofCategory(mdb.Category(category))...)
	}
	if len(s.unconfirmed) > 0 {
		found = append(found, Obstacle{Kind: ObstacleUnconfirmed, Members: s.unconfirmed, Text: fmt.Sprintf(
			"nobody gets partitions before %d processes have confirmed the last resize: calls of handlers are running that began before it, or the processes do not answer",
			len(s.unconfirmed))})
	}
	if s.Barrier == nil {
		return found
	}
	o := Obstacle{Kind: ObstacleUnconfirmed, Position: *s.Barrier}
	for i := range s.processes {
		if p := &s.processes[i]; p.Alive && (s.BarrierSet == nil || p.Seen.Before(*s.BarrierSet)) {
			o.Members = append(o.Members, p.ID)
		}
	}
	if len(o.Members) > 0 {
		o.Text = fmt.Sprintf("%d processes have not confirmed that they stop at position %d for a resize", len(o.Members), o.Position)
		found = append(found, o)
	}
	return found
}

// ofCategory returns those of the partitions of a category that a process reads.
func (s *survey) ofCategory(category mdb.Category) (found []Obstacle) {
	unowned := Obstacle{Kind: ObstacleUnowned, Category: category}
	barrier := Obstacle{Kind: ObstacleBarrier, Category: category}
	still := Obstacle{Kind: ObstacleStill, Category: category}
	waits := s.Barrier != nil && slices.Contains(s.uneven, string(category))
	highest := int64(0)
	for i := range s.checkpoints {
		if p := &s.checkpoints[i]; p.Category == category {
			highest = max(highest, p.Position)
		}
	}
	for i := range s.checkpoints {
		p := &s.checkpoints[i]
		if p.Category != category {
			continue
		}
		owner := slices.IndexFunc(s.processes, func(m MemberStatus) bool { return m.ID == p.Member })
		owned := owner >= 0 && s.processes[owner].Alive
		if !owned {
			unowned.add(p, owner >= 0)
		}
		if waits && p.Position < highest {
			barrier.add(p, owned)
		}
		if since := latest(p.Stored, p.Oldest); owned && p.Pending > 0 && s.Paused == nil && s.Barrier == nil && since.Before(s.Now.Add(-s.processes[owner].Lease)) {
			still.add(p, true)
			if still.Since.IsZero() || since.Before(still.Since) {
				still.Since = since
			}
		}
	}
	unowned.Text = fmt.Sprintf("no process has %s", unowned.partitions())
	if waits {
		barrier.Position = *s.Barrier
		barrier.Text = fmt.Sprintf("a resize waits at position %d for %s", barrier.Position, barrier.partitions())
	}
	still.Text = fmt.Sprintf("no progress was stored of %s since %s, although there are messages", still.partitions(), still.Since.UTC().Format(time.RFC3339))
	for _, o := range []Obstacle{unowned, barrier, still} {
		if len(o.Partitions) > 0 {
			found = append(found, o)
		}
	}
	return found
}

// full returns the obstacle that nothing more can be parked.
func (s *survey) full() *Obstacle {
	o := Obstacle{Kind: ObstacleFull}
	for i := range s.processes {
		if p := &s.processes[i]; p.Alive && p.MaxParked > 0 && s.Parked >= p.MaxParked {
			o.Members = append(o.Members, p.ID)
		}
	}
	if len(o.Members) == 0 {
		return nil
	}
	o.Text = fmt.Sprintf("%d cardinal IDs are parked, and MaxParked allows no more: what fails is retried in place", s.Parked)
	return &o
}

func (o *Obstacle) add(p *PartitionStatus, member bool) {
	o.Partitions = append(o.Partitions, p.Partition)
	if member && !slices.Contains(o.Members, p.Member) {
		o.Members = append(o.Members, p.Member)
	}
}

// partitions names the partitions.
func (o *Obstacle) partitions() string {
	numbers := make([]string, len(o.Partitions))
	for i, n := range o.Partitions {
		numbers[i] = strconv.Itoa(n)
	}
	what := "partition "
	if len(numbers) > 1 {
		what = "partitions "
	}
	return what + strings.Join(numbers, ", ") + " of category " + string(o.Category)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// parksUpTo comes before the limit of MaxParked in the description of a process.
const parksUpTo = ", parks up to "

// info describes the process for operators.
func info(maxParked int) string {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	return fmt.Sprintf("%s, process %d%s%d", strings.ToValidUTF8(host, "?"), os.Getpid(), parksUpTo, maxParked)
}

// readInfo returns the limit of MaxParked, or -1, and the rest of a description.
func readInfo(info string) (rest string, maxParked int) {
	rest, limit, _ := strings.Cut(info, parksUpTo)
	if n, err := strconv.Atoi(limit); err == nil {
		return rest, n
	}
	return info, -1
}
