package consumer

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/beside"
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
	// Created is when the consumer was created, and At the time of the server at which it was looked at.
	Created time.Time `json:"created"`
	At      time.Time `json:"at"`
	// Stuck says why messages are not handled. What is parked is not in it.
	Stuck []Obstacle `json:"stuck"`
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
	// MaxParked is that of the option, or -1 if the process does not say it.
	MaxParked int `json:"max_parked"`
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
	// ParkedKeys are the first 100 cardinal IDs of which streams are parked, in the order in which they were parked.
	ParkedKeys []ParkedKey `json:"parked_keys"`
}

// A ParkedKey is a cardinal ID of which streams are parked, and what that holds up.
type ParkedKey struct {
	Category  mdb.Category `json:"category"`
	Partition int          `json:"partition"`
	Key       string       `json:"key"`
	// Stream and Position identify the message that could not be handled.
	Stream   mdb.StreamName `json:"stream"`
	Position int64          `json:"position"`
	// Streams is the number of parked streams, and Messages that of their messages that are not handled, of which only the
	// first 1,001 are counted. With [ParkAlone], others of the cardinal ID are handled.
	Streams  int   `json:"streams"`
	Messages int64 `json:"messages"`
	// Attempts, Error, Due and ParkedAt are those of [ParkedStream].
	Attempts int       `json:"attempts"`
	Error    string    `json:"error,omitempty"`
	Due      time.Time `json:"due,omitzero"`
	ParkedAt time.Time `json:"parked_at"`
}

const (
	maxParkedKeys     = 100
	maxParkedMessages = 1001
)

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
func (o *Operator) List(ctx context.Context) ([]Status, error) {
	all, err := o.ShowAll(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Status, 0, len(all))
	for i := range all {
		list = append(list, all[i].Status)
	}
	return list, nil
}

// ShowAll returns what Show returns of all consumers, by name, without ParkedKeys.
func (o *Operator) ShowAll(ctx context.Context) (all []Details, err error) {
	if err := o.check(new(adminConfig)); err != nil {
		return nil, err
	}
	err = o.snapshot(ctx, "list the consumers", "", func(tx pgx.Tx) error {
		consumers, err := ledger.Consumers(ctx, tx, nil)
		all = make([]Details, 0, len(consumers))
		for i := 0; i < len(consumers) && err == nil; i++ {
			var d Details
			d, err = look(ctx, tx, &consumers[i])
			all = append(all, d)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// look looks at all of a consumer but what is parked.
func look(ctx context.Context, tx pgx.Tx, c *ledger.Consumer) (d Details, err error) {
	d.Status = Status{
		Consumer: c.Name, Categories: categoriesOf(c.Categories), Partitions: c.Partitions, Members: c.Members, Parked: c.Parked,
		Barrier: c.Barrier, Created: c.Made, At: c.Now,
	}
	if c.Paused != nil {
		d.Paused, d.Reason = true, *c.Paused
	}
	for _, category := range c.Categories {
		rows, err := pending(ctx, tx, c, category)
		if err != nil {
			return d, err
		}
		for i := range rows {
			r := &rows[i]
			p := PartitionStatus{
				Category: mdb.Category(category), Partition: r.Number, Position: r.Position, Member: r.Member, Epoch: r.Epoch,
				Pending: r.Pending, Stored: r.Moved,
			}
			if r.Oldest != nil {
				if p.Oldest = *r.Oldest; d.Oldest.IsZero() || p.Oldest.Before(d.Oldest) {
					d.Oldest = p.Oldest
				}
			}
			d.Pending += r.Pending
			d.PendingMore = d.PendingMore || r.More
			d.Checkpoints = append(d.Checkpoints, p)
		}
	}
	rows, err := ledger.Processes(ctx, tx, c.ID)
	if err != nil {
		return d, err
	}
	d.Processes = processesOf(rows)
	s := survey{Consumer: *c, processes: d.Processes, checkpoints: d.Checkpoints}
	for i := range rows {
		if r := &rows[i]; r.Alive && r.Unconfirmed {
			s.unconfirmed = append(s.unconfirmed, r.ID)
		}
	}
	if c.Barrier != nil {
		if s.uneven, err = ledger.Uneven(ctx, tx, c.ID); err != nil {
			return d, err
		}
	}
	d.Stuck = s.obstacles()
	return d, nil
}

func processesOf(rows []ledger.Process) []MemberStatus {
	processes := make([]MemberStatus, 0, len(rows))
	for i := range rows {
		r := &rows[i]
		m := MemberStatus{
			ID: r.ID, Instance: r.Instance, Categories: categoriesOf(r.Categories), Partitions: r.Partitions,
			Alive: r.Alive, Joined: r.Joined, Seen: r.Seen, Lease: r.Lease,
		}
		m.Info, m.MaxParked = readInfo(r.Info)
		if r.Moved != nil {
			m.Stored = *r.Moved
		}
		processes = append(processes, m)
	}
	return processes
}

func categoriesOf(names []string) []mdb.Category {
	categories := make([]mdb.Category, 0, len(names))
	for _, name := range names {
		categories = append(categories, mdb.Category(name))
	}
	return categories
}

// Show returns a consumer with its processes, its checkpoints, by category and partition, and what is parked, by cardinal ID.
func (o *Operator) Show(ctx context.Context, consumer string) (d Details, err error) {
	err = o.find(ctx, "show "+consumer, consumer, func(tx pgx.Tx, c *ledger.Consumer) (err error) {
		if d, err = look(ctx, tx, c); err != nil {
			return err
		}
		keys, err := parkedKeys(ctx, tx, c)
		d.ParkedKeys = make([]ParkedKey, 0, len(keys))
		for i := range keys {
			k := &keys[i]
			p := ParkedKey{
				Category: mdb.Category(k.Category), Partition: k.Number, Key: k.Key, Stream: mdb.StreamName(k.Stream), Position: k.Position,
				Streams: k.Streams, Messages: k.Messages, Attempts: k.Attempts, Error: k.Error, ParkedAt: k.At,
			}
			if k.Due != nil {
				p.Due = *k.Due
			}
			d.ParkedKeys = append(d.ParkedKeys, p)
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
	if err := o.check(options(name, nil)); err != nil {
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
	_, list, err = o.selectParked(ctx, consumer, &ledger.ParkedFilter{}, nil)
	return list, err
}

func init() { beside.SelectParked = (*Operator).selectParked }

// selectParked returns what a filter selects, and counts it if most is not nil: the number of rows that most then returns are
// read, or all if that is nil.
func (o *Operator) selectParked(ctx context.Context, consumer string, f *ledger.ParkedFilter, most func(*ledger.ParkedCount) *int) (count ledger.ParkedCount, list []ParkedStream, err error) {
	err = o.find(ctx, "list what is parked of "+consumer, consumer, func(tx pgx.Tx, c *ledger.Consumer) (err error) {
		var limit *int
		if most != nil {
			if count, err = ledger.CountSelected(ctx, tx, c.ID, f); err != nil {
				return err
			}
			limit = most(&count)
		}
		rows, err := ledger.ParkedOf(ctx, tx, c.ID, f, limit)
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
		return ledger.ParkedCount{}, nil, err
	}
	return count, list, nil
}
