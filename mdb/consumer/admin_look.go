package consumer

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// maxPending is how many messages of a category are looked at, to see what a consumer has to do.
const maxPending = 10001

// A Status is what [Operator.List] returns of a consumer.
type Status struct {
	Consumer   string         `json:"consumer"`
	Categories []mdb.Category `json:"categories"`
	// Partitions is the number of partitions, and Members that of running processes.
	Partitions int `json:"partitions"`
	Members    int `json:"members"`
	// Pending is the number of messages that are not handled, skipped or parked, and Oldest the time of the first of them. Only
	// the first 10,001 messages of each category after the lowest checkpoint are looked at. If there are more, PendingMore is
	// true, and Pending is a lower bound.
	Pending     int64     `json:"pending"`
	PendingMore bool      `json:"pending_more,omitempty"`
	Oldest      time.Time `json:"oldest,omitzero"`
	// Parked is the number of cardinal IDs of which streams are parked.
	Parked int `json:"parked"`
	// Paused says whether the consumer is paused, and Reason why.
	Paused bool   `json:"paused,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Barrier is the position at which the processes wait for [Operator.Resize], if they do.
	Barrier *int64 `json:"barrier,omitempty"`
	// Created is when the consumer was created.
	Created time.Time `json:"created"`
}

// A MemberStatus is a process that runs a consumer, or has not ended properly.
type MemberStatus struct {
	ID uuid.UUID `json:"id"`
	// Instance is that of [WithInstance], and Info names the host and the process.
	Instance string `json:"instance,omitempty"`
	Info     string `json:"info"`
	// Categories are those that it reads, and Partitions the numbers of the partitions that it has.
	Categories []mdb.Category `json:"categories"`
	Partitions []int          `json:"partitions"`
	// Alive says whether its lease has not ended. Seen is the time of its last heartbeat, and Lease the length of its lease,
	// in JSON in nanoseconds.
	Alive  bool          `json:"alive"`
	Joined time.Time     `json:"joined"`
	Seen   time.Time     `json:"seen"`
	Lease  time.Duration `json:"lease_ns"`
	// Stored is when it has last stored progress.
	Stored time.Time `json:"stored,omitzero"`
}

// A PartitionStatus is how far a partition is in a category.
type PartitionStatus struct {
	Category  mdb.Category `json:"category"`
	Partition int          `json:"partition"`
	// Position is the global position up to which everything is handled, skipped or parked.
	Position int64 `json:"position"`
	// Member is the process that has it, or the zero UUID. Epoch is that of [Delivery].
	Member uuid.UUID `json:"member,omitzero"`
	Epoch  int64     `json:"epoch"`
	// Pending and Oldest are those of the Status, of this partition.
	Pending int64     `json:"pending"`
	Oldest  time.Time `json:"oldest,omitzero"`
	// Stored is when Position was last stored.
	Stored time.Time `json:"stored"`
}

// Details are what [Operator.Show] returns of a consumer.
type Details struct {
	Status

	Processes   []MemberStatus    `json:"processes"`
	Checkpoints []PartitionStatus `json:"checkpoints"`
}

// A ParkedStream is a stream that is parked, or, with [ParkAlone], a message.
type ParkedStream struct {
	Category  mdb.Category   `json:"category"`
	Partition int            `json:"partition"`
	Stream    mdb.StreamName `json:"stream"`
	// Key is the cardinal ID, all of whose streams wait.
	Key string `json:"key"`
	// Position is the position in the stream from which on nothing is handled. With ParkAlone, only the message at it is not.
	Position int64 `json:"position"`
	Alone    bool  `json:"alone,omitempty"`
	// GlobalPosition is that of the message with which the stream was parked.
	GlobalPosition int64 `json:"global_position"`
	// Attempts is the number of calls of the handler with the message at Position that have failed. It is 0 if it only waits for
	// another stream, or for messages before it.
	Attempts int `json:"attempts"`
	// Error is the type of the last error, or its text, see [WithErrorText].
	Error string `json:"error,omitempty"`
	// Due is when it is replayed. If it is zero, it waits for [Operator.Replay], or for another stream.
	Due time.Time `json:"due,omitzero"`
	// ParkedAt is when it was parked, and TriedAt when it was last tried.
	ParkedAt time.Time `json:"parked_at"`
	TriedAt  time.Time `json:"tried_at"`
}

// List returns all consumers, by name.
func (o *Operator) List(ctx context.Context) (list []Status, err error) {
	err = o.snapshot(ctx, "list the consumers", "", func(tx pgx.Tx) error {
		consumers, err := ledger.Consumers(ctx, tx, nil)
		list = make([]Status, 0, len(consumers))
		for i := 0; i < len(consumers) && err == nil; i++ {
			var s Status
			s, _, err = statusOf(ctx, tx, &consumers[i])
			list = append(list, s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// statusOf looks how far a consumer is.
func statusOf(ctx context.Context, tx pgx.Tx, c *ledger.Consumer) (s Status, ps []PartitionStatus, err error) {
	s = Status{
		Consumer: c.Name, Categories: categoriesOf(c.Categories), Partitions: c.Partitions, Members: c.Members, Parked: c.Parked,
		Barrier: c.Barrier, Created: c.Made,
	}
	if c.Paused != nil {
		s.Paused, s.Reason = true, *c.Paused
	}
	for _, category := range c.Categories {
		rows, err := ledger.Pending(ctx, tx, c.ID, category, c.Partitions, maxPending)
		if err != nil {
			return s, nil, err
		}
		for i := range rows {
			r := &rows[i]
			p := PartitionStatus{
				Category: mdb.Category(category), Partition: r.Number, Position: r.Position, Member: r.Member, Epoch: r.Epoch,
				Pending: r.Pending, Stored: r.Moved,
			}
			if r.Oldest != nil {
				if p.Oldest = *r.Oldest; s.Oldest.IsZero() || p.Oldest.Before(s.Oldest) {
					s.Oldest = p.Oldest
				}
			}
			s.Pending += r.Pending
			s.PendingMore = s.PendingMore || r.More
			ps = append(ps, p)
		}
	}
	return s, ps, nil
}

func categoriesOf(names []string) []mdb.Category {
	categories := make([]mdb.Category, 0, len(names))
	for _, name := range names {
		categories = append(categories, mdb.Category(name))
	}
	return categories
}

// Show returns a consumer with its processes and its checkpoints, by category and partition.
func (o *Operator) Show(ctx context.Context, consumer string) (d Details, err error) {
	err = o.find(ctx, "show "+consumer, consumer, func(tx pgx.Tx, c *ledger.Consumer) (err error) {
		if d.Status, d.Checkpoints, err = statusOf(ctx, tx, c); err != nil {
			return err
		}
		processes, err := ledger.Processes(ctx, tx, c.ID)
		d.Processes = make([]MemberStatus, 0, len(processes))
		for i := range processes {
			p := &processes[i]
			m := MemberStatus{
				ID: p.ID, Instance: p.Instance, Info: p.Info, Categories: categoriesOf(p.Categories), Partitions: p.Partitions,
				Alive: p.Alive, Joined: p.Joined, Seen: p.Seen, Lease: p.Lease,
			}
			if p.Moved != nil {
				m.Stored = *p.Moved
			}
			d.Processes = append(d.Processes, m)
		}
		return err
	})
	if err != nil {
		return Details{}, err
	}
	return d, nil
}

// find calls f with the consumer of a name.
func (o *Operator) find(ctx context.Context, what, name string, f func(tx pgx.Tx, c *ledger.Consumer) error) error {
	if err := options(name, nil).err(); err != nil {
		return err
	}
	return o.snapshot(ctx, what, name, func(tx pgx.Tx) error {
		found, err := ledger.Consumers(ctx, tx, &name)
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			return &NotFoundError{name}
		}
		return f(tx, &found[0])
	})
}

// Parked returns what is parked of a consumer, in the order of the global positions.
func (o *Operator) Parked(ctx context.Context, consumer string) (list []ParkedStream, err error) {
	err = o.find(ctx, "list what is parked of "+consumer, consumer, func(tx pgx.Tx, c *ledger.Consumer) error {
		rows, err := ledger.ParkedOf(ctx, tx, c.ID)
		list = make([]ParkedStream, 0, len(rows))
		for i := range rows {
			r := &rows[i]
			p := ParkedStream{
				Category: mdb.Category(r.Category), Partition: r.Number, Stream: mdb.StreamName(r.Stream), Key: r.Key, Position: r.Position,
				Alone: r.Upto != nil, GlobalPosition: r.GlobalPosition, Attempts: r.Attempts, Error: r.Error, ParkedAt: r.At, TriedAt: r.Tried,
			}
			if r.Due != nil {
				p.Due = *r.Due
			}
			list = append(list, p)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
