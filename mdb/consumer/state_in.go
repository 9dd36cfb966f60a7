package consumer

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// StateIn keeps the consumer's state in another database than the messages: its checkpoints, what is parked, and which process has which
// partitions. The transactions of [EachTx], [BatchTx], [EachQueued] and [OnPark] are those of that database, so what they write there
// happens exactly once. Install the schema of consumers there, with [github.com/messagedb-go/messagedb/mdb/schema.InstallConsumers]. The role of the
// store must be allowed to read the table message_store.messages. A consumer whose store is a proxy of PL/Proxy needs this option, because a proxy
// cannot have the state: keep it on one of the shards.
//
// The two databases fail over apart. If that of the state loses its last transactions, the consumer continues with what is left, as
// it does without the option. If the store loses messages that were handled, the consumer goes back to the last message that both have,
// and handles what the store has after it: nothing of that is left out or handled twice. Effects of lost messages remain. The
// processes know by what they have read which message that is. One that does not, for example because it was
// started after the loss, ends with an [*mdb.ForkError], and changes nothing. If no process knows it, move the consumer with [Operator.Seek]. The
// same holds if the store goes back to a history in which messages exist that were lost before. A lost message that its producer writes
// again is a new message, also with the same ID, and is handled.
//
// Messages that are written with tx and [mdb.Store.WithTx] are written to the state's database, if that has a message store: to write to
// this consumer's store, use the store itself. The pool needs one connection more than there are workers.
func StateIn(pool *pgxpool.Pool) Option {
	return Option{name: stateIn, apply: func(c *config) {
		if pool == nil {
			c.fault("StateIn", "nil", "a pool of the state's database")
		}
		c.state, c.elsewhere = pool, true
	}}
}

const stateIn = "StateIn"

// checkState makes a store of the state's pool, for what the package needs of one.
func (c *config) checkState(store *mdb.Store) {
	c.home = store
	if c.state == nil || store == nil || store.Pool() == nil {
		return
	}
	home, err := mdb.New(c.state, mdb.WithLogger(besideOf(store).Logger))
	var wrong *mdb.ArgumentError
	switch {
	case errors.As(err, &wrong):
		c.faults = append(c.faults, wrong.Faults...)
	case c.state == store.Pool():
		c.fault(stateIn, "the pool of the store", "another database, or no such option")
	}
	c.home = home
}

// A placed sends the statements of a member, and looks after checkpoints whose messages are in another database.
type placed struct {
	onConn
	run *running
}

func (p placed) rebalance(ctx context.Context, m ledger.Member, forgotten []ledger.Row) (ledger.Balance, ledger.Held, error) {
	b, held, err := p.onConn.rebalance(ctx, m, forgotten)
	switch {
	case err != nil:
	case p.run.config.elsewhere:
		held, err = p.run.reconcile(ctx, p.conn, m, held)
	case held.Gone != nil:
		p.run.end(&mdb.SetupError{Problem: "the messages of consumer " + p.run.config.name + " are in another database than its state", Remedy: "use the store that it had, with StateIn"})
		held = ledger.Held{}
	}
	return b, held, err
}

func (p placed) join(ctx context.Context, params ledger.JoinParams) (ledger.Joined, error) {
	if p.run.config.elsewhere {
		starts, err := p.run.starts(ctx, params)
		if err == nil {
			err = ledger.Prepare(ctx, p.conn, params, starts)
		}
		if err != nil {
			return ledger.Joined{}, err
		}
		if params.Start == nil {
			params.Start = new(int64) // everything exists
		}
	}
	return p.onConn.join(ctx, params)
}

func (p placed) ends(ctx context.Context, categories []string) ([]int64, error) {
	if p.run.config.elsewhere {
		asks, err := askerOf(ctx, p.run.store)
		if err != nil {
			return nil, err
		}
		return asks.ends(ctx, categories)
	}
	return p.onConn.ends(ctx, categories)
}

func (p placed) reached(ctx context.Context, consumer int64, categories []string, positions []int64) (bool, error) {
	if !p.run.config.elsewhere {
		return p.onConn.reached(ctx, consumer, categories, positions)
	}
	ends, err := p.ends(ctx, categories)
	if err != nil {
		return false, err
	}
	for i := range ends {
		ends[i] = min(ends[i], positions[i])
	}
	var yes bool
	err = p.conn.QueryRow(ctx, sqlReachedElsewhere, consumer, categories, ends).Scan(&yes)
	return yes, err
}
