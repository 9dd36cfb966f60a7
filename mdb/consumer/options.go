package consumer

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// Defaults of the options.
const (
	DefaultWorkers      = 1
	DefaultLease        = 10 * time.Second
	DefaultDrainTimeout = 20 * time.Second
	DefaultPartitions   = 64
	DefaultMaxParked    = 100
	DefaultMaxBytes     = 64 << 20

	minLease, maxLease = time.Second, time.Hour
	maxPartitions      = 1024
	pageSize           = 1000
)

// An Option configures a [Consumer]. [New] rejects an option that does not fit the handler.
type Option struct {
	name  string
	apply func(*config)
	fits  func(Handler) bool // nil: all
	needs string             // the handlers that it fits
}

// A config is what the options of a consumer say.
type config struct {
	name       string
	categories []string
	handler    Handler
	forms      formConfig

	workers    int
	lease      time.Duration
	drain      time.Duration
	instance   string
	partitions int // 0: as stored
	start      *int64
	started    bool // FromEnd or FromPosition was given
	polling    poll.Strategy
	inOrder    bool
	policy     func(Failure) Action
	stops      bool
	maxParked  int
	maxBytes   int64
	errorText  bool
	parkAlone  bool
	filters    bool
	positionID *string // of the position stream; nil: the state is in the schema of consumers
	flushing   flushing
	onPark     func(ctx context.Context, tx pgx.Tx, p Parked) error
	observed   observed
	state      *pgxpool.Pool // of StateIn; nil: none
	elsewhere  bool          // the messages are in another database than the state
	home       *mdb.Store    // of the state's database

	given  []string // the names of the options
	faults []mdb.Fault
}

func (c *config) fault(argument, given, allowed string) {
	c.faults = append(c.faults, mdb.Fault{Argument: argument, Given: given, Allowed: allowed})
}

// text checks a value that PostgreSQL stores as text.
func (c *config) text(argument, value, allowed string, most int) bool {
	switch {
	case value == "":
		c.fault(argument, `""`, allowed)
	case !utf8.ValidString(value):
		c.fault(argument, strconv.Quote(value), "valid UTF-8")
	case strings.ContainsRune(value, 0):
		c.fault(argument, strconv.Quote(value), "text without the character U+0000")
	case most > 0 && len(value) > most:
		c.fault(argument, fmt.Sprintf("%d bytes", len(value)), fmt.Sprintf("at most %d bytes", most))
	default:
		return true
	}
	return false
}

func (c *config) category(argument string, category mdb.Category) {
	const allowed = "a category, which contains no dash"
	if c.text(argument, string(category), allowed, 0) && strings.Contains(string(category), "-") {
		c.fault(argument, strconv.Quote(string(category)), allowed)
	}
	for _, other := range c.categories {
		if other == string(category) {
			c.fault(argument, strconv.Quote(other)+" twice", "each category once")
		}
	}
	c.categories = append(c.categories, string(category))
}

// newConfig returns the configuration, and in its faults everything that is wrong.
func newConfig(store *mdb.Store, name string, category mdb.Category, h Handler, opts []Option) *config {
	start := int64(0)
	c := &config{
		name: name, handler: h, forms: defaultForms(), start: &start,
		workers: DefaultWorkers, lease: DefaultLease, drain: DefaultDrainTimeout,
		maxParked: DefaultMaxParked, maxBytes: DefaultMaxBytes,
		flushing: flushing{DefaultFlushInterval, DefaultFlushMessages},
	}
	if store == nil {
		c.fault("store", "nil", "a *mdb.Store")
	}
	c.text("name", name, "the name of the consumer", ledger.MaxName)
	c.category("category", category)
	switch {
	case h.name == "":
		c.fault("handler", "a zero Handler", "one that Each, Batch, EachTx, BatchTx or EachQueued has made")
	case !h.valid:
		c.fault("handler", h.name+"(nil)", "a function")
	}
	for _, o := range opts {
		switch {
		case o.apply == nil:
			c.fault("option", "a zero Option", "one that a function of this package has made")
		case o.fits != nil && h.name != "" && !o.fits(h):
			c.fault("option", o.name+" with "+h.name, "it with "+o.needs)
		default:
			c.given = append(c.given, o.name)
			o.apply(c)
		}
	}
	c.checkPositionStream(category)
	c.checkState(store)
	if c.filters && store != nil && store.Pool() != nil && !besideOf(store).Direct {
		c.fault("store", "one without direct SQL, with FilterOnServer", "one with mdb.WithDirectSQL")
	}
	if c.inOrder {
		if c.partitions > 1 {
			c.fault("partitions", strconv.Itoa(c.partitions), "1 with InOrder")
		}
		if c.workers > 1 {
			c.fault("workers", strconv.Itoa(c.workers), "1 with InOrder")
		}
		c.partitions = 1
	}
	if c.stops && c.policy != nil {
		c.fault("option", "StopOnError and OnFailure", "one of them")
	}
	return c
}

func (c *config) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	return &mdb.ArgumentError{Faults: c.faults}
}

func positive[T int | int64](c *config, argument string, value T) {
	if value < 1 {
		c.fault(argument, fmt.Sprint(value), "at least 1")
	}
}

// WithWorkers sets how many calls of the handler may run in parallel in this process. Whatever
// the number is, order is kept: with [Each] one call at a time handles messages of the same
// cardinal ID, and with the other forms those of the same partition. Each worker of a form with
// transactions uses a connection of the pool, and there are at most as many of them as the pool
// has connections, minus one for reads. The default is [DefaultWorkers].
func WithWorkers(n int) Option {
	return Option{name: "WithWorkers", apply: func(c *config) {
		positive(c, "workers", n)
		c.workers = n
	}}
}

// WithLease sets how long a process keeps its partitions without a heartbeat, from a second to
// an hour. After a crash, other processes take over when its lease has ended. A process that
// gets no answer from the server for four fifths of its lease ends the contexts of its handlers,
// before others take over. It sends a heartbeat in each fifth of the lease, and at least every
// two seconds. All processes of a consumer should use the same lease. The default is
// [DefaultLease].
func WithLease(d time.Duration) Option {
	return Option{name: "WithLease", apply: func(c *config) {
		if d < minLease || d > maxLease {
			c.fault("lease", d.String(), fmt.Sprintf("%v to %v", minLease, maxLease))
		}
		c.lease = d
	}}
}

// WithDrainTimeout sets how long Run waits for handlers that are running when its context
// ends. Then their contexts end, and five seconds later the process leaves the consumer, even
// if they have not returned. Give the process more time than that to end: in Kubernetes, let
// terminationGracePeriodSeconds be ten seconds longer. The default is [DefaultDrainTimeout].
func WithDrainTimeout(d time.Duration) Option {
	return Option{name: "WithDrainTimeout", apply: func(c *config) {
		if d < 0 {
			c.fault("drain timeout", d.String(), "0 or more")
		}
		c.drain = d
	}}
}

// WithInstance names the process, with at most 200 bytes, by a name that it has again after a
// restart, such as that of a pod of a StatefulSet. If it is started again within its lease after a
// crash, it continues with the partitions of the old process immediately, and other processes keep
// theirs. No two processes may run with the same instance: the older one ends with [ErrReplaced],
// and the newer one continues with its partitions. If a failover loses that the older one has joined, the clocks of the two
// servers decide which one is newer: if they differ by more than the time between the starts of the processes, the newer one may end.
// Without this option, a process has a new random name in each run.
func WithInstance(name string) Option {
	return Option{name: "WithInstance", apply: func(c *config) {
		c.text("instance", name, "a name", ledger.MaxName)
		c.instance = name
	}}
}

// WithPartitions sets the number of partitions, 1 to 1,024, into which the messages are divided
// by their cardinal IDs. It limits how many processes can share the work, and how many calls of
// a form other than [Each] can run in parallel. The consumer gets this number when it first runs. Later only
// [Operator.Resize] changes it, and processes that are running continue with the new number. A Run that
// starts when the consumer has another number than that of this option fails with a
// [*mdb.SetupError]. Without the option, a new consumer has [DefaultPartitions], and an existing one
// keeps its number.
func WithPartitions(n int) Option {
	return Option{name: "WithPartitions", apply: func(c *config) {
		if n < 1 || n > maxPartitions {
			c.fault("partitions", strconv.Itoa(n), fmt.Sprintf("1 to %d", maxPartitions))
		}
		c.partitions = n
	}}
}

// WithCategories adds categories. All their messages are passed to the same handler, and those
// with the same cardinal ID are handled by the same process. Between categories there is no
// order. All processes of a consumer should have the same categories; while a deployment adds
// one, only those that have it get new partitions.
func WithCategories(categories ...mdb.Category) Option {
	return Option{name: "WithCategories", apply: func(c *config) {
		for _, category := range categories {
			c.category("categories", category)
		}
	}}
}

// FromEnd lets a consumer, and each category that is added to it, begin after the messages
// that exist when it first runs. Later it continues where it was. Without this option or
// [FromPosition], it begins at the beginning.
//
// If a failover loses the whole consumer, it begins where the first process that joins again has first seen it. A process that
// starts after the failover begins after the messages that exist then.
func FromEnd() Option {
	return Option{name: "FromEnd", apply: func(c *config) { c.begin("FromEnd", nil) }}
}

// FromPosition is like [FromEnd], but begins after a global position. Run fails with an
// [*mdb.AheadError] if the store has not used the position yet.
func FromPosition(position int64) Option {
	return Option{name: "FromPosition", apply: func(c *config) {
		if position < 0 {
			c.fault("position", strconv.FormatInt(position, 10), "0 or more")
		}
		c.begin("FromPosition", &position)
	}}
}

func (c *config) begin(option string, position *int64) {
	if c.started {
		c.fault("option", option+" and another start", "one of FromEnd and FromPosition, once")
	}
	c.started, c.start = true, position
}

// WithPolling sets the strategy by which the categories are polled when there are no new messages.
// The default is that of the store. With [mdb.WithNotify], a consumer waits for notifications, as
// a subscription does.
func WithPolling(strategy poll.Strategy) Option {
	return Option{name: "WithPolling", apply: func(c *config) {
		if strategy == nil {
			c.fault("polling", "nil", "a poll.Strategy")
		}
		c.polling = strategy
	}}
}

// WithMaxBytes limits the memory for messages that were read and are not handled yet. The limit
// is not exact. The default is [DefaultMaxBytes].
func WithMaxBytes(bytes int64) Option {
	return Option{name: "WithMaxBytes", apply: func(c *config) {
		positive(c, "bytes", bytes)
		c.maxBytes = bytes
	}}
}

// FilterOnServer lets the server leave out the data of messages whose partitions belong to other processes. Without it, each process
// receives all messages of its categories and drops those of others. Use it if messages have several kilobytes and several processes
// run the consumer. It needs a store with [mdb.WithDirectSQL]. With one process, or small messages, it saves nothing that matters.
func FilterOnServer() Option {
	return Option{name: "FilterOnServer", apply: func(c *config) { c.filters = true }}
}

// InOrder gives the consumer a single partition, in which one message is handled at a time, in
// the order of the global positions. So one process works, and others wait to take over. It
// cannot be combined with other numbers of partitions, nor with several workers.
func InOrder() Option {
	return Option{name: "InOrder", apply: func(c *config) { c.inOrder = true }}
}

// OnFailure sets a function that decides what happens to a message that could not be handled.
// The default is [Failure.Default].
func OnFailure(f func(Failure) Action) Option {
	return Option{name: "OnFailure", apply: func(c *config) {
		if f == nil {
			c.fault("OnFailure", "nil", "a function")
		}
		c.policy = f
	}}
}

// StopOnError lets Run end with a [*mdb.HandlerError] at the first error of the handler.
// Errors that are wrapped by [Transient], [Skip] or [RetryAfter] do not end it.
func StopOnError() Option {
	return Option{name: "StopOnError", apply: func(c *config) { c.stops = true }}
}

// MaxParked limits how many cardinal IDs of the consumer may be parked. When there are as many,
// a message that fails is retried where it is, with waits of up to a minute, and what has to be
// handled after it waits. So an outage of another service does not park everything. The default
// is [DefaultMaxParked]; with 0 nothing is parked.
func MaxParked(keys int) Option {
	return Option{name: "MaxParked", apply: func(c *config) {
		if keys < 0 {
			c.fault("parked", strconv.Itoa(keys), "0 or more")
		}
		c.maxParked = keys
	}}
}

// WithErrorText stores the texts of handlers' errors with what is parked, up to 1,000 characters.
// Without it, only the types of the errors are stored, because a text may contain parts of a
// message.
func WithErrorText() Option {
	return Option{name: "WithErrorText", apply: func(c *config) { c.errorText = true }}
}

// WithBatchSize sets the most messages of a call of [Batch] or [BatchTx]. The default is 100.
func WithBatchSize(messages int) Option {
	return Option{
		name: "WithBatchSize", needs: "Batch or BatchTx", fits: func(h Handler) bool { return h.batches },
		apply: func(c *config) {
			positive(c, "batch size", messages)
			c.forms.batchSize = messages
		},
	}
}

// PerTx sets how many messages a transaction of [EachTx] or [EachQueued] handles at most, and,
// for EachTx, after how much time in handlers it is committed. The defaults are 100 messages
// and 50 milliseconds for EachTx, and 1,000 messages for EachQueued. PerTx(1, 0) commits each
// message separately.
func PerTx(messages int, handling time.Duration) Option {
	return Option{
		name: "PerTx", needs: "EachTx or EachQueued",
		fits: func(h Handler) bool { return h.adaptive || h.name == "EachQueued" },
		apply: func(c *config) {
			positive(c, "messages of a transaction", messages)
			if handling < 0 {
				c.fault("time of a transaction", handling.String(), "0 or more")
			}
			c.forms.perTx = perTx{messages, handling}
		},
	}
}

// WithIsolation sets the isolation level of the transactions of [EachTx], [BatchTx] and
// [EachQueued]. The default is read committed. With repeatable read or serializable, a transaction
// fails if it conflicts with another one, and is repeated: the handler is called again.
func WithIsolation(level pgx.TxIsoLevel) Option {
	return Option{
		name: "WithIsolation", needs: "EachTx, BatchTx or EachQueued", fits: func(h Handler) bool { return h.transactional },
		apply: func(c *config) {
			switch level {
			case pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable:
				c.forms.isolation = level
			default:
				c.fault("isolation level", strconv.Quote(string(level)), "read committed, repeatable read or serializable")
			}
		},
	}
}

// WithIdleTimeout sets after which time without a statement the server ends a transaction of
// [EachTx] or [BatchTx], so that a process that was stopped holds no locks. 0 is never. The
// default is a minute.
func WithIdleTimeout(d time.Duration) Option {
	return Option{
		name: "WithIdleTimeout", needs: "EachTx or BatchTx", fits: func(h Handler) bool { return h.transactional && h.name != "EachQueued" },
		apply: func(c *config) {
			if d < 0 || d > 0 && d < time.Millisecond {
				c.fault("idle timeout", d.String(), "0, or at least a millisecond")
			}
			c.forms.idle = d
		},
	}
}
