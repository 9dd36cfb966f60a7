package schema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ddl"
)

// ShardStride is the difference between two global positions of one shard, and so the highest number of
// shards.
const ShardStride = 1024

// InstallShard makes a database a shard with a number from 0 to 1023. It installs Message DB as
// [Install] does, and lets the sequence of global positions draw only those that have the number
// as their remainder modulo [ShardStride]. So shards with different numbers have different positions, and a category
// keeps its positions when it is moved to another shard.
//
// A store with messages may become a shard. Its messages keep their positions, which are of any
// remainder, and new ones get higher positions. So write to other shards only after their sequences are past those
// positions, too; mdb move does that to the shard that it moves to.
//
// It also installs the schema message_store_shard, with the functions that a proxy of PL/Proxy calls, see [ProxySQL]. If another
// role could replace them, it returns a [*ForeignObjectsError].
//
// If it is repeated, InstallShard replaces functions of another version, and changes nothing else, unless the sequence has left the
// positions of the shard, or is lower than the positions in the table. Then it sets the sequence past both. It never sets it back.
// It rejects a store that is a shard of another number, or whose sequence has another increment, a cache or a cycle.
//
// The role must own the table messages. A change of the sequence waits for the transactions that have drawn
// a position, and later ones wait for it. To let them through, InstallShard waits for a
// tenth of a second at most, and then retries until ctx ends.
func InstallShard(ctx context.Context, db DB, number int) error {
	if number < 0 || number >= ShardStride {
		return fmt.Errorf("schema: shard %d: want a number from 0 to %d", number, ShardStride-1)
	}
	err := Install(ctx, db)
	incomplete := (*RoleError)(nil)
	if err != nil && !errors.As(err, &incomplete) {
		return err
	}
	if err := spread(ctx, db, number); err != nil {
		return fmt.Errorf("schema: install shard %d: %w", number, err)
	}
	if incomplete != nil { // the functions are granted to the role message_store, which may be missing
		return err
	}
	if err := installShardFunctions(ctx, db); err != nil {
		return fmt.Errorf("schema: install the functions of a shard: %w", err)
	}
	return nil
}

// after returns the first position of the shard after another one.
func (f *shardFound) after(last int64) int64 {
	if last < f.start {
		return f.start
	}
	return f.start + (last-f.start)/ShardStride*ShardStride + ShardStride
}

const sequenceName = "message_store.messages_global_position_seq"

// spread makes the sequence draw the positions of a shard.
func spread(ctx context.Context, db DB, number int) error {
	err := ddl.WithShortWaits(ctx, ddl.ReadCommitted(db), map[string]string{"search_path": "pg_catalog, pg_temp"}, func(tx pgx.Tx) error {
		state, err := lookAtShard(ctx, tx)
		if err != nil {
			return err
		}
		if err := state.refuse(number); err != nil || state.right(number) {
			return err
		}
		if err := refuseShardStrangers(ctx, tx); err != nil {
			return err
		}
		// The first change waits for all who have drawn a position. The second statement sees their messages.
		if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER SEQUENCE "+sequenceName+" INCREMENT BY %d", ShardStride), pgx.QueryExecModeExec); err != nil {
			return err
		}
		if state, err = lookAtShard(ctx, tx); err != nil {
			return err
		}
		start := int64(number)
		if number == 0 {
			start = ShardStride
		}
		state.start = start
		restart := state.after(max(state.drawn, state.highest))
		_, err = tx.Exec(ctx, fmt.Sprintf("ALTER SEQUENCE "+sequenceName+" START WITH %d RESTART WITH %d", start, restart), pgx.QueryExecModeExec)
		return err
	})
	return ddl.OfOwner(err)
}

// ShardState says which shard a database is. [ShardStatus] returns it.
type ShardState struct {
	// Installed reports whether [InstallShard] has made the database a shard.
	Installed bool

	// Number is the number of the shard.
	Number int
}

// ShardStatus reports which shard a database is. It works without privileges on the schema message_store, and
// also if Message DB is not installed.
func ShardStatus(ctx context.Context, db DB) (state ShardState, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var start, increment int64
		err := tx.QueryRow(ctx, `SELECT q.seqstart, q.seqincrement FROM pg_catalog.pg_sequence AS q
JOIN pg_catalog.pg_class AS c ON c.oid = q.seqrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'message_store' AND c.relname = 'messages_global_position_seq'`, pgx.QueryExecModeExec).Scan(&start, &increment)
		if err == nil && increment == ShardStride {
			state = ShardState{Installed: true, Number: int(start % ShardStride)}
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return ShardState{}, fmt.Errorf("schema: look up the shard: %w", err)
	}
	return state, nil
}

// A shardFound is what there is of the sequence. The number of a shard is in its start, which setval does not change.
type shardFound struct {
	increment, cache, start int64
	cycle                   bool
	next                    int64 // the next position
	drawn, highest          int64 // the last position that was drawn, and that is in the table
}

func lookAtShard(ctx context.Context, tx pgx.Tx) (f shardFound, err error) {
	err = tx.QueryRow(ctx, `SELECT q.seqincrement, q.seqcache, q.seqstart, q.seqcycle,
	s.last_value + CASE WHEN s.is_called THEN q.seqincrement ELSE 0 END,
	s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END,
	coalesce((SELECT pg_catalog.max(global_position) FROM message_store.messages), 0)
FROM `+sequenceName+` AS s, pg_catalog.pg_sequence AS q
WHERE q.seqrelid = '`+sequenceName+`'::pg_catalog.regclass`, pgx.QueryExecModeExec).
		Scan(&f.increment, &f.cache, &f.start, &f.cycle, &f.next, &f.drawn, &f.highest)
	return f, err
}

func (f *shardFound) isShard() bool { return f.increment == ShardStride }
func (f *shardFound) number() int   { return int(f.start % ShardStride) }

// refuse returns why the store cannot become the shard of the number.
func (f *shardFound) refuse(number int) error {
	switch {
	case f.isShard() && f.number() != number:
		return fmt.Errorf("the store is shard %d", f.number())
	case !f.isShard() && f.increment != 1:
		return fmt.Errorf("the sequence of global positions has INCREMENT %d, want 1 or %d", f.increment, ShardStride)
	case f.cache != 1:
		return fmt.Errorf("the sequence of global positions has CACHE %d, want 1", f.cache)
	case f.cycle:
		return errors.New("the sequence of global positions has CYCLE")
	}
	return nil
}

// right reports whether there is nothing to change.
func (f *shardFound) right(number int) bool {
	return f.isShard() && f.next%ShardStride == int64(number) && f.next > f.highest
}
