package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// A client is a way to use Message DB.
type client interface {
	write(ctx context.Context, stream string, data []byte) error
	// conflict writes with a wrong expected version, and returns nil if the write is
	// rejected.
	conflict(ctx context.Context, stream string) error
	// batch writes messages to a stream in one transaction.
	batch(ctx context.Context, stream string, n int) error
	// The reads return how many messages there are.
	category(ctx context.Context, category string, position int64, size int) (int, error)
	member(ctx context.Context, category string, position int64, size, member, members int) (int, error)
	stream(ctx context.Context, stream string, position int64, size int) (int, error)
	last(ctx context.Context, stream string) error
	version(ctx context.Context, stream string) error
}

// payload is the data of messages, unless a case is about their size.
var payload = []byte(`{"amount": 10, "currency": "EUR", "note": "some words, so that the row is of an ordinary size"}`)

// The statements that a program without mdb would write.
const (
	columns     = `SELECT id, stream_name, type, position, global_position, data, metadata, time FROM message_store.`
	writeSQL    = `SELECT message_store.write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)`
	categorySQL = columns + `get_category_messages($1::varchar, $2::bigint, $3::bigint)`
	memberSQL   = columns + `get_category_messages($1::varchar, $2::bigint, $3::bigint, NULL, $4::bigint, $5::bigint)`
	streamSQL   = columns + `get_stream_messages($1::varchar, $2::bigint, $3::bigint)`
	lastSQL     = columns + `get_last_stream_message($1::varchar)`
	versionSQL  = `SELECT message_store.stream_version($1::varchar)`
)

var allSQL = []string{writeSQL, categorySQL, memberSQL, streamSQL, lastSQL, versionSQL}

// mdbClient uses package mdb.
type mdbClient struct{ store *mdb.Store }

func (c mdbClient) write(ctx context.Context, stream string, data []byte) error {
	_, err := c.store.WriteMessage(ctx, mdb.StreamName(stream), mdb.NewMessage("Deposited", data))
	return err
}

func (c mdbClient) conflict(ctx context.Context, stream string) error {
	_, err := c.store.WriteMessage(ctx, mdb.StreamName(stream), mdb.NewMessage("Deposited", payload), mdb.ExpectVersion(7))
	if errors.As(err, new(*mdb.WrongVersionError)) {
		return nil
	}
	return fmt.Errorf("no conflict: %w", err)
}

func (c mdbClient) batch(ctx context.Context, stream string, n int) error {
	messages := make([]mdb.ProposedMessage, n)
	for i := range messages {
		messages[i] = mdb.NewMessage("Deposited", payload)
	}
	_, err := c.store.WriteMessages(ctx, mdb.StreamName(stream), messages)
	return err
}

func (c mdbClient) category(ctx context.Context, category string, position int64, size int) (int, error) {
	messages, err := c.store.GetCategoryMessages(ctx, mdb.Category(category), mdb.FromGlobalPosition(position), mdb.WithBatchSize(size))
	return len(messages), err
}

func (c mdbClient) member(ctx context.Context, category string, position int64, size, member, members int) (int, error) {
	messages, err := c.store.GetCategoryMessages(ctx, mdb.Category(category), mdb.FromGlobalPosition(position),
		mdb.WithBatchSize(size), mdb.AsConsumerGroup(member, members))
	return len(messages), err
}

func (c mdbClient) stream(ctx context.Context, stream string, position int64, size int) (int, error) {
	messages, err := c.store.GetStreamMessages(ctx, mdb.StreamName(stream), mdb.FromPosition(position), mdb.WithBatchSize(size))
	return len(messages), err
}

func (c mdbClient) last(ctx context.Context, stream string) error {
	_, err := c.store.GetLastStreamMessage(ctx, mdb.StreamName(stream))
	return err
}

func (c mdbClient) version(ctx context.Context, stream string) error {
	_, err := c.store.StreamVersion(ctx, mdb.StreamName(stream))
	return err
}

// A querier is a driver as a program without mdb would use it.
type querier interface {
	// messages decodes rows and returns how many there are.
	messages(ctx context.Context, sql string, args ...any) (int, error)
	// value decodes a number.
	value(ctx context.Context, sql string, args ...any) error
	// inOneTransaction executes the statement once with each of the arguments.
	inOneTransaction(ctx context.Context, sql string, args [][]any) error
}

// A wrapper is a client on a driver.
type wrapper struct{ querier }

func writeArgs(stream string, data []byte) []any {
	return []any{uuid.NewString(), stream, "Deposited", string(data), nil, nil}
}

func (c wrapper) write(ctx context.Context, stream string, data []byte) error {
	return c.value(ctx, writeSQL, writeArgs(stream, data)...)
}

func (c wrapper) conflict(ctx context.Context, stream string) error {
	args := writeArgs(stream, payload)
	args[5] = 7
	if c.value(ctx, writeSQL, args...) == nil {
		return errors.New("no conflict")
	}
	return nil
}

func (c wrapper) batch(ctx context.Context, stream string, n int) error {
	args := make([][]any, n)
	for i := range args {
		args[i] = writeArgs(stream, payload)
	}
	return c.inOneTransaction(ctx, writeSQL, args)
}

func (c wrapper) category(ctx context.Context, category string, position int64, size int) (int, error) {
	return c.messages(ctx, categorySQL, category, position, size)
}

func (c wrapper) member(ctx context.Context, category string, position int64, size, member, members int) (int, error) {
	return c.messages(ctx, memberSQL, category, position, size, member, members)
}

func (c wrapper) stream(ctx context.Context, stream string, position int64, size int) (int, error) {
	return c.messages(ctx, streamSQL, stream, position, size)
}

func (c wrapper) last(ctx context.Context, stream string) error {
	n, err := c.messages(ctx, lastSQL, stream)
	if err == nil && n != 1 {
		err = fmt.Errorf("%d messages, want 1", n)
	}
	return err
}

func (c wrapper) version(ctx context.Context, stream string) error {
	return c.value(ctx, versionSQL, stream)
}
