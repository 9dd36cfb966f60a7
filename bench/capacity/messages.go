package main

import (
	"context"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/mdb"
)

// What a service writes: an event of an account, with the metadata of Eventide, which is most of the JSON.
var (
	data     = json.RawMessage(`{"accountId": "2f6de7a4-4f3c-4d0e-9a65-0d6a6b0b7a11", "amount": 125, "time": "2026-11-29T10:00:00.000Z", "processedTime": "2026-11-29T10:00:00.012Z"}`)
	metadata = json.RawMessage(`{"replyStreamName": null, "schemaVersion": null, "correlationStreamName": "transfer-5d0f5b3c-6f0e-4a52-8bb1-3c7a9c1c2a55", "causationMessagePosition": 3, "causationMessageStreamName": "account:command-2f6de7a4-4f3c-4d0e-9a65-0d6a6b0b7a11", "causationMessageGlobalPosition": 1234567}`)
)

// perStream is how many messages a stream has in a table that is filled.
const perStream = 20

func newMessage() mdb.ProposedMessage {
	m := mdb.NewMessage("Deposited", data)
	m.Metadata = metadata
	return m
}

// streamOf returns the n-th stream of a category. The names are not in the order of n, as those of services are not.
func streamOf(category mdb.Category, n int) mdb.StreamName {
	id := md5.Sum(fmt.Append(nil, n))
	return category.Stream(uuid.UUID(id).String())
}

// relations are the table and its indexes.
var relations = []string{"messages", "messages_pkey", "messages_id", "messages_stream", "messages_category"}

// A volume is what the messages of a table take.
type volume struct {
	relations []float64     // bytes a message
	wal       float64       // bytes a message, of the insertion
	vacuum    time.Duration // VACUUM (FREEZE)
	again     time.Duration // another one, which finds nothing to do
	vacuumWAL float64
}

func (v volume) bytes() (all float64) {
	for _, bytes := range v.relations {
		all += bytes
	}
	return all
}

// insertMost is how many messages a statement inserts.
const insertMost = 10_000

// fill inserts messages into the empty store of a database, as fast as one session can, and vacuums the table.
func (s *server) fill(ctx context.Context, database string, messages int, newID func() uuid.UUID) (v volume, err error) {
	if err := s.create(ctx, database, ours("")); err != nil {
		return v, err
	}
	pool, err := pgxpool.New(ctx, pgserver.PoolURL(s.TCP(database), 1))
	if err != nil {
		return v, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return v, err
	}
	before, err := s.counters(ctx)
	if err != nil {
		return v, err
	}
	streams := (messages + perStream - 1) / perStream
	for begin := 0; begin < messages; begin += insertMost {
		n := min(insertMost, messages-begin)
		ids, names, positions := make([]uuid.UUID, n), make([]string, n), make([]int, n)
		for i := range n {
			ids[i], names[i], positions[i] = newID(), string(streamOf("account", (begin+i)%streams)), (begin+i)/streams
		}
		_, err := pool.Exec(ctx, `INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata)
			SELECT id, name, position, 'Deposited', $4::jsonb, $5::jsonb FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS m (id, name, position)`, ids, names, positions, data, metadata)
		if err != nil {
			return v, err
		}
	}
	filled, err := s.counters(ctx)
	if err != nil {
		return v, err
	}
	if v.vacuum, err = vacuum(ctx, pool); err != nil {
		return v, err
	}
	vacuumed, err := s.counters(ctx)
	if err != nil {
		return v, err
	}
	if v.again, err = vacuum(ctx, pool); err != nil {
		return v, err
	}
	each := func(bytes int64) float64 { return float64(bytes) / float64(messages) }
	v.wal, v.vacuumWAL = each(filled.wal-before.wal), each(vacuumed.wal-filled.wal)
	for _, relation := range relations {
		var bytes int64
		if err := pool.QueryRow(ctx, "SELECT pg_relation_size('message_store.' || $1)", relation).Scan(&bytes); err != nil {
			return v, err
		}
		v.relations = append(v.relations, each(bytes))
	}
	return v, nil
}

func vacuum(ctx context.Context, pool *pgxpool.Pool) (time.Duration, error) {
	begin := time.Now()
	_, err := pool.Exec(ctx, "VACUUM (FREEZE) message_store.messages")
	return time.Since(begin), err
}

// afterCheckpoint returns the bytes of WAL that each of so many single writes takes directly after a checkpoint, when almost each changes
// pages that have to be written whole.
func (s *server) afterCheckpoint(ctx context.Context, database string, writes int) (bytes float64, err error) {
	store, err := s.connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	if _, err := store.Pool().Exec(ctx, "CHECKPOINT"); err != nil {
		return 0, err
	}
	before, err := s.counters(ctx)
	if err != nil {
		return 0, err
	}
	for i := range writes {
		if _, err := store.WriteMessage(ctx, streamOf("account", i), newMessage()); err != nil {
			return 0, err
		}
	}
	after, err := s.counters(ctx)
	return float64(after.wal-before.wal) / float64(writes), err
}
