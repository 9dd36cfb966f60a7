package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// An Operator looks at consumers and changes them, while processes run them or not. [Admin] returns one. Its methods
// are safe for concurrent use.
//
// Each method that changes something does so in one transaction, or not at all. It waits for transactions of handlers that have
// moved a checkpoint, and repeats the transaction after a deadlock, until ctx ends. It returns when the change is committed. Running
// processes notice that immediately with a store that listens for notifications, and otherwise within two seconds.
//
// The error is an [*mdb.ArgumentError] if an argument is wrong, before anything is sent, a [*NotFoundError] if there is no
// consumer of the name, a [*ConflictError] if what is asked for is not possible now, and an [*mdb.SetupError] if the schema of
// consumers is missing.
type Operator struct {
	pool  *pgxpool.Pool
	store *mdb.Store // of Messages; nil: none
}

// Admin returns an Operator of the consumers whose state is in the pool's database. It does no I/O. The role needs the
// privileges of the role message_store. The methods need one connection of the pool at a time.
//
// If the consumers' messages are in another database, see [StateIn], pass their store with [Messages].
func Admin(pool *pgxpool.Pool, opts ...OperatorOption) *Operator {
	o := &Operator{pool: pool}
	for _, opt := range opts {
		if opt != nil {
			opt(o)
		}
	}
	return o
}

// A NotFoundError says that there is no consumer of a name.
type NotFoundError struct {
	// Consumer is the name.
	Consumer string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("consumer: there is no consumer %q", e.Consumer)
}

// A ConflictError says why an operation is not possible now. Nothing was changed.
type ConflictError struct {
	// Consumer is the consumer's name.
	Consumer string
	// Problem says what is in the way.
	Problem string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("consumer: not possible for consumer %q: %s", e.Consumer, e.Problem)
}

// An AdminOption changes what a method of an [Operator] does. The methods name those that they accept.
type AdminOption struct {
	name  string
	apply func(*adminConfig)
}

// An adminConfig is what the options of a call say.
type adminConfig struct {
	config // for its faults

	dry, force, keep, everything bool
	position                     *int64
	slack                        time.Duration
	within                       func(ctx context.Context, tx pgx.Tx) error
}

// The names of options.
const (
	dryRun       = "DryRun"
	force        = "Force"
	keepParked   = "KeepParked"
	inCategory   = "InCategory"
	atPosition   = "AtPosition"
	andWaiting   = "AndWaiting"
	within       = "Within"
	longestWrite = "LongestWrite"
)

// DryRun lets a method do nothing but report what it would change, or why it would fail. The transaction is the same, but is
// rolled back. So it takes the same locks: transactions of handlers wait until it has ended before they commit.
func DryRun() AdminOption {
	return AdminOption{dryRun, func(c *adminConfig) { c.dry = true }}
}

// Force lets [Operator.Delete] and [Operator.Rename] change a consumer that processes are running.
func Force() AdminOption {
	return AdminOption{force, func(c *adminConfig) { c.force = true }}
}

// KeepParked lets [Operator.Seek] keep what is parked. Where a stream is set back before messages that were parked by [ParkAlone], these are no
// longer parked alone: they wait with its other messages.
func KeepParked() AdminOption {
	return AdminOption{keepParked, func(c *adminConfig) { c.keep = true }}
}

// InCategory lets [Operator.Seek] change only one of the consumer's categories. It can be repeated for others.
func InCategory(category mdb.Category) AdminOption {
	return AdminOption{inCategory, func(c *adminConfig) {
		c.category("category", category)
	}}
}

// LongestWrite says how long transactions that write messages take at most, for [ToTime]. The default is a minute.
func LongestWrite(d time.Duration) AdminOption {
	return AdminOption{longestWrite, func(c *adminConfig) {
		if d < 0 {
			c.fault("time of a write", d.String(), "0 or more")
		}
		c.slack = d
	}}
}

// AtPosition lets [Operator.Skip] fail if the stream is not parked at this position of the stream. Pass the position of the
// message that you have looked at. Without the option, Skip skips the next message instead if that one was replayed in the meantime.
func AtPosition(position int64) AdminOption {
	return AdminOption{atPosition, func(c *adminConfig) {
		if position < 0 {
			c.fault("position", strconv.FormatInt(position, 10), "0 or more")
		}
		c.position = &position
	}}
}

// AndWaiting lets [Operator.Skip] also skip the messages that wait for the parked one: those with its cardinal ID up to the
// checkpoint of their partition. Nothing waits for a message that was parked by [ParkAlone]: only it is skipped, and others that were
// parked so remain parked.
func AndWaiting() AdminOption {
	return AdminOption{andWaiting, func(c *adminConfig) { c.everything = true }}
}

// Within calls f in the transaction of a [Operator.Seek], [Operator.Fork], [Operator.Rename] or [Operator.Delete]. What f writes with tx is
// committed together with the change, for example the truncation of a read model that is rebuilt, or a copy of it. The
// transaction belongs to the Operator: f must not commit it. With [DryRun], f is not called.
//
// While f runs, no process can join the consumer or take over its partitions, and in a Fork no transaction of its handlers can commit.
// A statement of f that waits for a lock for two seconds fails, since lock_timeout is set. The transaction is repeated then, and
// after a deadlock: f is called again, so it must have no effects outside the transaction.
//
// Except in a Fork, f is called while transactions of handlers can still commit. TRUNCATE waits for those that have written to the
// table. Before a DELETE, lock the table in SHARE ROW EXCLUSIVE mode, or rows that they commit after it remain, although their
// messages are handled again.
func Within(f func(ctx context.Context, tx pgx.Tx) error) AdminOption {
	return AdminOption{within, func(c *adminConfig) {
		if f == nil {
			c.fault("Within", "nil", "a function")
		}
		c.within = f
	}}
}

// options returns what the options say, of which a method accepts some.
func options(consumer string, opts []AdminOption, accepted ...string) *adminConfig {
	c := &adminConfig{slack: time.Minute}
	c.text("name", consumer, "the name of a consumer", ledger.MaxName)
	for _, o := range opts {
		switch {
		case o.apply == nil:
			c.fault("option", "a zero AdminOption", "one that a function of this package has made")
		case !slices.Contains(accepted, o.name):
			c.fault("option", o.name, "one that the method accepts")
		default:
			o.apply(c)
		}
	}
	return c
}

const (
	// lockWait limits each wait for a lock. What waits has the lock of the consumer, for which joins and balances wait.
	lockWait = 2 * time.Second
	// adminAttempts limits the repetitions after deadlocks. Those after waits for locks have no limit.
	adminAttempts = 10
	// storeWait limits the wait for a process that stores its progress each second.
	storeWait = 3 * time.Second
)

var adminRetry = backoff.Policy{Min: 50 * time.Millisecond, Max: time.Second}

var errDryRun = errors.New("a dry run")

// check returns what is wrong with the arguments of a call.
func (o *Operator) check(c *adminConfig) error {
	if o == nil || o.pool == nil {
		c.fault("pool", "nil", "a pool, see Admin")
	}
	return c.err()
}

// change calls f in a transaction of its own, which is rolled back if c says so. what says what it does, for errors.
func (o *Operator) change(ctx context.Context, what, consumer string, c *adminConfig, f func(tx pgx.Tx) error) error {
	if err := o.check(c); err != nil {
		return err
	}
	err := repeat(ctx, func() error {
		return pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
			if err := ledger.LimitWait(ctx, tx, lockWait); err != nil {
				return err
			}
			if err := f(tx); err != nil {
				return err
			}
			if c.dry {
				return errDryRun
			}
			return nil
		})
	})
	if err == nil || errors.Is(err, errDryRun) {
		return nil
	}
	return adminError(ctx, what, consumer, err)
}

// repeat calls f, which runs a transaction, until its error is none that passes, or ctx ends, and returns the last error.
func repeat(ctx context.Context, f func() error) error {
	var unstored time.Time // when a process has not stored its progress for the first time
	for attempt := 1; ; attempt++ {
		err := f()
		switch code := codeOf(err); {
		case code == "55P03":
		case (code == "40P01" || code == "40001") && attempt < adminAttempts:
		case code == ledger.Unstored && (unstored.IsZero() || time.Since(unstored) < storeWait):
			if unstored.IsZero() {
				unstored = time.Now()
			}
		default:
			return err
		}
		if adminRetry.Wait(ctx, attempt) != nil {
			return err
		}
	}
}

// snapshot calls f in a transaction that reads, and sees one state.
func (o *Operator) snapshot(ctx context.Context, what, consumer string, f func(tx pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
	if errors.As(err, new(*NotFoundError)) || err == nil {
		return err
	}
	return adminError(ctx, what, consumer, err)
}

// around calls f after the lock of the consumer and c.within, so that those who hold what c.within waits for can move their
// checkpoints.
func around(ctx context.Context, tx pgx.Tx, consumer string, c *adminConfig, f func() error) error {
	if c.within == nil || c.dry {
		return f()
	}
	if _, err := ledger.Lock(ctx, tx, consumer); err != nil {
		return err
	}
	if err := c.within(ctx, tx); err != nil {
		return &withinError{err}
	}
	return f()
}

// A withinError is that of a function of Within.
type withinError struct{ err error }

func (e *withinError) Error() string { return e.err.Error() }
func (e *withinError) Unwrap() error { return e.err }

// adminError returns an error for users.
func adminError(ctx context.Context, what, consumer string, err error) error {
	var ours *withinError
	if errors.As(err, &ours) {
		return fmt.Errorf("consumer: %s: the function of Within: %w", what, ours.err)
	}
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		return conflict
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch {
		case pgErr.Code == ledger.NoConsumer:
			return &NotFoundError{consumer}
		case pgErr.Code == ledger.Conflict, pgErr.Code == ledger.Ahead, pgErr.Code == ledger.Unstored:
			return &ConflictError{consumer, pgErr.Message}
		case pgErr.Code == "23505" && pgErr.ConstraintName == "consumers_name_key":
			return &ConflictError{consumer, "there is a consumer of the other name"}
		case pgErr.Code == "42P01" && strings.Contains(pgErr.Message, "message_store_consumers"):
			return &mdb.SetupError{Problem: "the schema message_store_consumers is missing or incomplete", Remedy: installRemedy}
		}
	}
	if ctx.Err() == nil {
		var setup *mdb.SetupError
		if errors.As(fatal(consumer, beside.Explain, err), &setup) {
			return setup
		}
	}
	return beside.Explain(what, err)
}
