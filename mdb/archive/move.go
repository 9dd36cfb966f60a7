package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/gate"
	"github.com/messagedb-go/messagedb/internal/trigger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A Mover moves a category from one shard to another while it is written to. All pools must connect as the owners of what they
// change, and not through a pooler. If the functions depend on the search path, as those of Message DB's own script do, the pools of the
// shards need [mdb.StoreFirst], or are those of stores of [mdb.Connect].
type Mover struct {
	Category mdb.Category

	// From and To are the shards, see [schema.InstallShard]. Each pool has two connections or more.
	From, To *pgxpool.Pool

	// Proxies are the databases of PL/Proxy whose table message_store_proxy.placement says which shard has the category. If they have the SQL of
	// [schema.ProxySQL], the methods first prove that From and To are their shards, by a notification through each proxy.
	Proxies []*pgxpool.Pool

	// Progress is called after each part that was copied or deleted, if it is not nil, with the number of messages so far.
	Progress func(messages int64)

	after  func(MoveStep) error // of tests: called after each step
	broken breakage             // of tests
}

// A breakage leaves out a part of a move.
type breakage int

const (
	unbroken breakage = iota
	withoutGate
	withoutSequence
	withoutLock
	flipFirst
)

// Moved is what [Mover.Move] has done.
type Moved struct {
	// Copied is the number of messages that this call has copied.
	Copied int64

	// HeldUp is how long writers were held up: from the request for the lock of the category until the other shard
	// accepted messages. It is 0 if an earlier call had taken the lock.
	HeldUp time.Duration
}

// Move moves the category. If it fails or is interrupted, the same call continues from what it finds, and [Mover.Abort]
// undoes it as long as no proxy has been changed.
//
// It copies the messages with their IDs, positions, global positions and times in parts. Then it takes the lock of the
// category on the old shard, copies the rest, and closes the gate there, which is a trigger that rejects messages of the category with the
// SQLSTATE MD001. From then on a write to the old shard fails without any effect, and is retried by stores of package mdb. Then it
// changes the proxies, and opens the gate of the new shard.
//
// It first copies into a category that the gate of the new shard closes. So it fails if the new shard has messages of the category that are not
// from an earlier call, or messages of other categories with the same global positions or IDs.
//
// Messages of the category remain on the old shard until [Mover.DeleteOld] deletes them.
func (m *Mover) Move(ctx context.Context) (done Moved, err error) {
	s, err := m.start(ctx)
	if err != nil {
		return done, err
	}
	defer s.end(ctx)
	switch s.state.Step {
	case MoveNotBegun, MoveCopying:
		if err := s.tryFlip(ctx); err != nil {
			return done, s.explain(err)
		}
		if err := s.prepare(ctx); err != nil {
			return done, s.explain(err)
		}
		if m.broken == flipFirst {
			if err := s.flip(ctx); err != nil {
				return done, err
			}
		}
		if err := s.bulk(ctx); err != nil {
			return s.done, s.explain(err)
		}
		if err := s.rest(ctx); err != nil {
			return s.done, s.explain(err)
		}
	case MoveClosed, MoveFlipped:
		// The new shard may have lost the end of the copy, by a failover.
		if err := s.bulk(ctx); err != nil {
			return s.done, s.explain(err)
		}
	case MoveDone:
		return done, nil
	}
	if err := s.flip(ctx); err != nil {
		return s.done, s.explain(err)
	}
	if err := s.open(ctx); err != nil {
		return s.done, s.explain(err)
	}
	if !s.begun.IsZero() {
		s.done.HeldUp = time.Since(s.begun)
	}
	return s.done, removeGate(ctx, m.To)
}

// A move is one run of a Mover.
type move struct {
	*Mover

	state MoveState
	locks []*pgxpool.Conn // hold the lock of the command, on both shards
	done  Moved
	begun time.Time // of the request for the lock of the category
}

// start takes the lock that excludes other movers of the category, and looks at what there is. It takes the lock on both shards, because a
// move back has them in the other order.
func (m *Mover) start(ctx context.Context) (s *move, err error) {
	var wrong faults
	if wrong.category(m.Category); wrong.err() != nil {
		return nil, wrong.err()
	}
	if m.From == nil || m.To == nil || len(m.Proxies) == 0 {
		return nil, errors.New("archive: a move needs two shards and a proxy")
	}
	if min(m.From.Config().MaxConns, m.To.Config().MaxConns) < 2 { // one holds the lock
		return nil, errors.New("archive: a move needs pools of two connections or more")
	}
	s = &move{Mover: m}
	if s.state, err = m.numbers(ctx); err != nil { // one store cannot be locked twice
		return nil, m.explain(err)
	}
	for _, shard := range []*pgxpool.Pool{m.From, m.To} {
		if err == nil {
			err = s.exclude(ctx, shard)
		}
	}
	if err == nil {
		err = m.look(ctx, &s.state)
	}
	if err == nil {
		err = s.prove(ctx)
	}
	if err != nil {
		s.end(ctx)
		return nil, m.explain(err)
	}
	return s, nil
}

// exclude takes the lock on a shard.
func (s *move) exclude(ctx context.Context, shard *pgxpool.Pool) error {
	conn, err := shard.Acquire(ctx)
	if err != nil {
		return err
	}
	s.locks = append(s.locks, conn)
	var free bool
	err = conn.QueryRow(ctx, `SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))`, moverKey, string(s.Category)).Scan(&free)
	if err == nil && !free {
		err = errors.New("another move of the category is running")
	}
	return err
}

// moverKey is the first number of the advisory lock of a mover, that of this project plus one.
const moverKey = 0x4D444245

// end releases the locks of the mover. If that fails, they go with the connections.
func (s *move) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, conn := range s.locks {
		if _, err := conn.Exec(ctx, `SELECT pg_catalog.pg_advisory_unlock($1, pg_catalog.hashtext($2))`, moverKey, string(s.Category)); err != nil {
			_ = conn.Conn().Close(ctx)
		}
		conn.Release()
	}
}

func (m *Mover) explain(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == "23505" && server.TableName == "messages" {
		return fmt.Errorf("archive: move category %s: the new shard has another message with the same ID or global position (%s), so the category cannot be moved there: %w",
			m.Category, server.ConstraintName, err)
	}
	if strayed := (*mdb.ArgumentError)(nil); errors.As(err, &strayed) {
		return err
	}
	return fmt.Errorf("archive: move category %s: %w", m.Category, err)
}

func (s *move) passed(step MoveStep) error {
	if s.after == nil {
		return nil
	}
	return s.after(step)
}

// inTx calls f in a transaction that is read committed, so that each statement sees what is committed before it.
func inTx(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, f)
}

// prepare closes the gate of the new shard, and installs that of the old one, so that closing it takes no lock on the table.
func (s *move) prepare(ctx context.Context) error {
	if err := gate.Install(ctx, s.To); err != nil {
		return err
	}
	if s.state.Step == MoveNotBegun {
		err := inTx(ctx, s.To, func(tx pgx.Tx) error {
			if err := lockCategory(ctx, tx, s.Category); err != nil {
				return err
			}
			last, err := lastOf(ctx, tx, s.Category)
			if err == nil && last > 0 {
				err = errThere
			}
			if err != nil {
				return err
			}
			return gate.Close(ctx, tx, string(s.Category), s.state.From, true)
		})
		if err != nil {
			return err
		}
	}
	if err := s.passed(MoveCopying); err != nil {
		return err
	}
	if err := gate.Install(ctx, s.From); err != nil {
		return err
	}
	if s.broken == withoutSequence {
		return s.passed(MoveCopying)
	}
	// The sequence of the old shard, and not only the category: other shards may have used the numbers of a store that became a shard.
	var drawn int64
	if err := s.From.QueryRow(ctx, `SELECT last_value FROM message_store.messages_global_position_seq`).Scan(&drawn); err != nil {
		return err
	}
	if err := advance(ctx, s.To, drawn); err != nil {
		return err
	}
	return s.passed(MoveCopying)
}

// bulk copies what there is, until little is left.
func (s *move) bulk(ctx context.Context) error {
	for {
		n, err := s.bulkPart(ctx)
		if err == nil {
			err = s.passed(MoveCopying)
		}
		if err != nil || n < partSize {
			return err
		}
	}
}

func (s *move) bulkPart(ctx context.Context) (n int64, err error) {
	conn, err := s.From.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release() // also if Progress panics
	return s.copyPart(ctx, conn.Conn())
}

// rest copies the rest under the lock of the category, and closes the gate of the old shard.
func (s *move) rest(ctx context.Context) error {
	s.begun = time.Now()
	for {
		err := s.tryRest(ctx)
		var server *pgconn.PgError
		if !errors.As(err, &server) || server.Code != "55P03" && server.Code != "40P01" {
			return err
		}
		// Writers that have queued after the lock go on meanwhile.
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
		s.begun = time.Now()
	}
}

func (s *move) tryRest(ctx context.Context) error {
	return inTx(ctx, s.From, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '1s'`); err != nil {
			return err
		}
		if s.broken != withoutLock {
			if err := lockCategory(ctx, tx, s.Category); err != nil {
				return err
			}
		}
		if err := s.passed(moveLocked); err != nil {
			return err
		}
		for n := int64(partSize); n == partSize; {
			var err error
			if n, err = s.copyPart(ctx, tx.Conn()); err != nil {
				return err
			}
		}
		if err := s.passed(moveRest); err != nil {
			return err
		}
		if s.broken == withoutGate {
			return nil
		}
		return gate.Close(ctx, tx, string(s.Category), s.state.To, false)
	})
}

// place changes the shard of a category on a proxy.
const place = `INSERT INTO message_store_proxy.placement (category, shard) VALUES ($1, $2)
ON CONFLICT (category) DO UPDATE SET shard = excluded.shard`

// tryFlip changes the proxies, and rolls that back: a proxy may lack the shard or the privilege, which must not show when the gates are
// closed, and least of all when another proxy is changed.
func (s *move) tryFlip(ctx context.Context) error {
	for _, proxy := range s.Proxies {
		tx, err := proxy.Begin(ctx)
		if err == nil {
			_, err = tx.Exec(ctx, place, string(s.Category), s.state.To)
			err = errors.Join(err, tx.Rollback(ctx))
		}
		var server *pgconn.PgError
		switch {
		case errors.As(err, &server) && server.Code == "23514":
			return fmt.Errorf("the proxy has no shard %d: %w", s.state.To, err)
		case err != nil:
			return fmt.Errorf("the proxy cannot be changed: %w", err)
		}
	}
	return nil
}

// flip lets the proxies use the new shard. Until the gate of that is open, writes are retried.
func (s *move) flip(ctx context.Context) error {
	if err := s.passed(MoveClosed); err != nil {
		return err
	}
	for _, proxy := range s.Proxies {
		if _, err := proxy.Exec(ctx, place, string(s.Category), s.state.To); err != nil {
			return err
		}
		// Subscriptions that wait for notifications of the old shard then wait for those of the new one.
		if _, err := notifyShard(ctx, proxy, s.state.From, trigger.Placement); err != nil {
			return err
		}
		if err := s.passed(MoveFlipped); err != nil {
			return err
		}
	}
	return nil
}

// open opens the gate of the new shard.
func (s *move) open(ctx context.Context) error {
	if err := inTx(ctx, s.To, func(tx pgx.Tx) error { return gate.Open(ctx, tx, string(s.Category)) }); err != nil {
		return err
	}
	return s.passed(MoveDone)
}

// removeGate removes a gate that no category needs. If the table is too busy for that, the gate stays, which only costs time.
func removeGate(ctx context.Context, pool *pgxpool.Pool) error {
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := gate.Uninstall(soon, pool)
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}
