// Package ledger calls the SQL functions of consumers, which mdb/schema/consumers.sql defines. It
// contains no policy, no retries and no goroutines.
//
// # Protocol
//
// A consumer's work is divided into partitions. A partition has a checkpoint for each category:
// the position up to which everything is handled, skipped or parked. The checkpoint's row also
// says who may move it: a member, which is one run of a consumer in one process, and the epoch,
// which is the number of the claim by which the member got it.
//
// A member joins, and then ticks. A tick renews its lease, moves checkpoints, and reports what
// has changed. If something has, the member balances: it computes its share of the partitions,
// claims free ones, or releases those beyond its share after their handlers have returned. A
// member that leaves is deleted. One that has not ticked for the time of its lease is deleted by
// another one that balances. Its partitions are then free, because a partition is free if its
// owner is not a member. Nothing is written to the checkpoints for that. There is no leader, and
// no lock of a session.
//
// # The fence
//
// Every move compares the member, the epoch and the position with those in the row, and writes
// the row only if they are equal. Each comparison stops another accident:
//
//   - the member: another one has claimed the partition, while a transaction of the former owner
//     still runs;
//   - the epoch: the same member has lost the partition and claimed it again, or has forgotten what it knew of it and read
//     its row again, while a transaction from before still runs;
//   - the position: a transaction whose outcome was unknown is repeated, although it was
//     committed. Such a transaction must be repeated. To look for its effects is not enough: as
//     long as it is not visible, it may still commit.
//
// The row also contains the server's timeline at the claim, and every move compares it with the
// timeline of now. A failover may lose what was committed, such as an effect or a parked stream,
// and leave the row as the member knows it. A move would then pass what is lost. So a claim ends
// with its timeline. [Rebalance] gives the member its rows by new epochs, and of these the member
// knows only what it has read after that.
//
// A member forgets what it knows of a row when an answer has not arrived, or the fence has refused something. Then it must not go on by the
// same epoch: a statement that waits in the session of a lost connection could still park a stream, or end a replay, after the member has read what is
// parked. So it names these rows to [Rebalance], which gives them new epochs, and uses those that have got one.
//
// The fence must be in the row that moves. If a move compared with another row, it would lock only
// the checkpoint. While a claim that has read the position has not committed, the move would still
// see the old owner, and succeed. Here the claim and the move write the same row, so one waits for
// the other and sees what it did.
//
// A function that refuses a move raises an exception, instead of returning a number. So it can be
// sent together with COMMIT, which the server then turns into a rollback, and the checkpoint costs
// no round trip; see [QueueMove].
//
// # Locks
//
// Locks are taken in the order consumers, members, checkpoints, parked. [Join], [Rebalance],
// [Release] and [Leave] lock the row of the consumer first, to the end of their statement, so each
// of them sees who has joined and what was claimed before. Without that lock, a claim that has
// waited for a row would use a snapshot from before the new owner joined, and take the partition
// away from it. [Beat], [QueueMove] and [Park] do not lock that row.
//
// Only what moves a checkpoint, parks or replays waits for one that is locked. The other functions leave it out, and
// get it the next time. So neither a lease nor the group depends on a transaction that hangs. If the
// lock of the consumer's row is held, the server ends the four functions before the deadline of their
// context, with SQLSTATE 55P03.
//
// The functions need transactions with the isolation level READ COMMITTED. In a stricter one they
// do nothing wrong, but fail with SQLSTATE 40001.
//
// # Operators
//
// The functions of operators, such as [Seek] and [Resize], lock the row of the consumer, and then wait for the checkpoints. They
// write what they want, and give the rows new epochs. So it does not matter what members do meanwhile: a
// move was made before, or is refused. Members see by [Tick.Changes] that they have to read their rows. They keep their
// rows, so that the messages of a key remain in one process.
//
// A member assigns messages to partitions by a number of them. So [Rebalance] gives no rows to who has another number. It has
// no rows by which it could move a checkpoint then, because their epochs have risen.
//
// If that number does not become a multiple, a key can get to another member, while the former one still has a message of it: the barrier
// of [Resize] stops calls of handlers, but not those that are running. So such a change makes a new layout. A member
// says by [Rebalance] that no handler of an earlier one runs, and nobody claims a partition as long as there are members that have not said so. The
// number alone would not show this: it can be changed and changed back between two ticks. A member that does not tick is deleted as always.
//
// # Eviction
//
// A member is deleted if its last tick is older than its lease. Only the server's clock is
// compared. A member whose own ticks were late within the last lease deletes nobody, so an outage
// of the server, or a process that was stopped, does not look like the death of all others. A lease
// that has ended takes nothing away until somebody has deleted the member. The deletion and the
// tick write the same row, so they exclude each other, and a member learns by its next tick that it
// was deleted. Until then it may move checkpoints that nobody has claimed, which is harmless: a
// claim continues after them.
package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs of the functions.
const (
	Fenced     = "MC001" // the fence refuses a move, a park or a replay
	Gone       = "MC002" // the member was deleted
	Partitions = "MC003" // the consumer has another number of partitions
	NoConsumer = "MC004" // the consumer does not exist
	Conflict   = "MC005" // what an operator asks for is not possible now
	Ahead      = "MC006" // the store has not used the position
	Silent     = "MC007" // members have not ticked in time, and may be running
	Unstored   = "MC008" // the member of a checkpoint has not stored that it has passed a message
)

// Channel is the channel on which members are notified. The payload is the consumer's name.
const Channel = "message_store_consumers"

// MaxName is the length of the longest name of a consumer or instance, in bytes.
const MaxName = 200

// A Querier is a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// A Partition is a share of the cardinal IDs of a category.
type Partition struct {
	Category string
	Number   int
}

// An Anchor identifies the last message that is known up to a position. The zero value is none.
type Anchor struct {
	ID   uuid.UUID
	Time time.Time // zero: not known
}

// A Row is a checkpoint that a member has.
type Row struct {
	Partition
	Position, Epoch int64
	Anchor
}

// A Parked is a stream that is parked from a position in the stream on.
type Parked struct {
	Partition
	Key, Stream    string
	Position       int64
	Upto           *int64 // the last position that is parked; nil: all that follow
	GlobalPosition int64  // of the message that was parked first
	Attempts       int    // of the message at the position; 0: it only waits for its key
	Replays        int    // those of the attempts that were made since it was parked
	Due            *time.Time
	IsDue          bool // that time has come by the server's clock; only [QueueKey] sets it
}

// A Move moves a checkpoint.
type Move struct {
	Partition
	Epoch, From, To int64
	Anchor          // of the last known message up to To
}

// A Member is one run of a consumer.
type Member struct {
	Consumer   int64
	ID         uuid.UUID
	Instance   string // or ""
	Partitions int    // by which it assigns messages to partitions; 0: it is not compared, nor is Layout
	Layout     int64  // of the consumer
}

// JoinParams describe a new member and its consumer.
type JoinParams struct {
	Name           string    // of the consumer
	Member         uuid.UUID // never used before, unless there was no answer
	Instance, Info string
	Lease          time.Duration
	Categories     []string
	Partitions     int    // 0: as stored, or 64
	Start          *int64 // where new checkpoints begin; nil: after the last messages of their categories
	Former         int64  // the consumer, whatever its name is; 0: the one of the name, which is created if there is none
	// Since is when the process has joined before in another history, by the clock of the server: a member of its instance that has joined
	// after that is not replaced. Zero: it has not joined before.
	Since time.Time
}

// Joined is what a member joined.
type Joined struct {
	Consumer   int64
	Partitions int
	Layout     int64
	Changes    int64
	Timeline   string    // as in Tick
	At         time.Time // by the clock of the server
}

// A Tick is the answer to a heartbeat. If Alive is false, only Replaced, Later, Timeline, Partitions and Name are set, and
// the last two only if the consumer was not deleted.
type Tick struct {
	Alive    bool   // the member was not deleted
	Replaced bool   // another member of the same instance has joined
	Later    bool   // it has joined later, whatever the history is: only a position stream says that
	Changes  int64  // differs from the last tick: balance
	Paused   bool   // call no handlers
	Barrier  *int64 // handle no messages after this position; nil: no limit
	Suspects bool   // a lease has ended: balance
	Due      bool   // a parked stream of this member is to be retried
	Timeline string // of the server; empty if the server does not say it

	Partitions int    // of the consumer, which operators can change
	Layout     int64  // another one: keys may be in partitions of other members now
	Name       string // of the consumer, which operators can change

	// Indexes into the moves: those that were made, those whose checkpoints are locked, and
	// those that the fence refuses.
	Moved, Skipped, Refused []int
}

// A Balance is the share of a member.
type Balance struct {
	Members int // of the consumer
	Quota   int // how many partitions the member should have
	Held    int // how many it had before
	Claimed int // how many it has claimed
	Paused  bool
	Barrier *int64 // as in Tick

	Changes  int64  // as in Tick, before the balance
	Timeline string // as in Tick

	// Renewed are indexes of the forgotten rows, in any order: those that are as the member knew them, but for their epochs, which are new. Of the
	// others, somebody else has changed the epoch or the member, or a transaction has locked the row. If the epoch is still the one that the member
	// knew, it must not use the row, because what it has sent by that epoch may still be executed.
	Renewed []int
}

// Held is what a member has.
type Held struct {
	Rows   []Row    // by partition and category
	Parked []Parked // of the partitions of these rows, in the order of their global positions
	// Gone is the first message that was lost of each loss, of those partitions whose messages are in another database.
	Gone map[Partition][]Anchor
}

// IsFenced reports whether the fence has refused a move, a park or a replay.
func IsFenced(err error) bool { return is(err, Fenced) }

// IsGone reports whether the member was deleted.
func IsGone(err error) bool { return is(err, Gone) }

func is(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}
