package mdb

import (
	"context"
	"iter"

	"github.com/jackc/pgx/v5"
)

// GetStreamMessages reads a page of a stream's messages, in the order of their positions,
// in one round trip. Unless options say otherwise, it starts at the beginning and reads at
// most [DefaultBatchSize] messages. If there are none, it returns no messages and no error.
//
// You may keep the messages. Keeping one keeps its whole chunk of the page in memory;
// [Message.Clone] copies it out.
func (s *procedures) GetStreamMessages(ctx context.Context, stream StreamName, opts ...StreamReadOption) ([]Message, error) {
	r, err := s.configureStreamRead(stream, opts)
	if err != nil {
		return nil, err
	}
	return s.readStream(ctx, r)
}

// GetCategoryMessages reads a page of the messages of all streams of a category, in the
// order of their global positions, in one round trip. Unless options say otherwise, it
// starts at the beginning and reads at most [DefaultBatchSize] messages. If there are none,
// it returns no messages and no error.
//
// The messages of a category become visible in this order, so a read that continues after
// the last message misses none. This requires that all writers use write_message, and it
// holds within one category only.
//
// You may keep the messages. Keeping one keeps its whole chunk of the page in memory;
// [Message.Clone] copies it out.
func (s *procedures) GetCategoryMessages(ctx context.Context, category Category, opts ...CategoryReadOption) ([]Message, error) {
	r, err := s.configureCategoryRead(category, opts)
	if err != nil {
		return nil, err
	}
	return s.readCategory(ctx, r)
}

// GetLastStreamMessage reads the last message of a stream, or with [OfType] the last one
// of a type, in one round trip. The error is [ErrNoMessage] if there is none.
func (s *procedures) GetLastStreamMessage(ctx context.Context, stream StreamName, opts ...LastMessageOption) (Message, error) {
	var c lastConfig
	c.faults.stream(stream)
	for _, opt := range opts {
		opt.lastMessage(&c)
	}
	if err := c.faults.err(); err != nil {
		return Message{}, err
	}
	var messages []Message
	plain, ofType := getLastStreamMessage, getLastStreamMessageOfType
	if s.config.direct {
		plain, ofType = directLastMessage, directLastMessageOfType
	}
	var err error
	if c.typ == nil {
		err = s.run(ctx, plain, messagesInto(&messages), string(stream))
	} else {
		err = s.run(ctx, ofType, messagesInto(&messages), string(stream), *c.typ)
	}
	switch {
	case err != nil:
		return Message{}, explain("get the last message of stream "+string(stream), err)
	case len(messages) == 0:
		return Message{}, ErrNoMessage
	}
	return messages[0], nil
}

// StreamVersion returns the position of the last message of a stream, or
// [NoStream] if it has none. It takes one round trip.
func (s *procedures) StreamVersion(ctx context.Context, stream StreamName) (int64, error) {
	var f argumentFaults
	f.stream(stream)
	if err := f.err(); err != nil {
		return 0, err
	}
	st := streamVersion
	if s.config.direct {
		st = directStreamVersion
	}
	version := NoStream // the server returns NULL for it
	if err := s.run(ctx, st, number(&version), string(stream)); err != nil {
		return 0, explain("get the version of stream "+string(stream), err)
	}
	return version, nil
}

// MessageStoreVersion returns the version of the installed Message DB, such as "1.3.0", in
// one round trip.
func (s *procedures) MessageStoreVersion(ctx context.Context) (string, error) {
	var version string
	if err := s.run(ctx, messageStoreVersion, one(&version)); err != nil {
		return "", explain("get the version of Message DB", err)
	}
	return version, nil
}

// StreamMessages returns a sequence of a stream's messages, which it reads page after page
// like GetStreamMessages. It ends after the first page that is not full, and may include
// messages that are written meanwhile. [WithBatchSize] sets the size of a page. While the
// body of the loop runs, the sequence uses no connection of a [Store]'s pool, and the
// connection of a [Tx] is free for other calls. An error is the last pair of the sequence.
// Each range over the sequence reads again.
func (s *procedures) StreamMessages(ctx context.Context, stream StreamName, opts ...StreamReadOption) iter.Seq2[Message, error] {
	r, err := s.configureStreamRead(stream, opts)
	return pages(r, err, func(r *pageRead) ([]Message, error) {
		return s.readStream(ctx, r)
	}, func(m *Message) int64 { return m.Position })
}

// CategoryMessages returns a sequence of a category's messages, which it reads page after
// page like GetCategoryMessages. It ends after the first page that is not full, and may
// include messages that are written meanwhile. [WithBatchSize] sets the size of a page.
// While the body of the loop runs, the sequence uses no connection of a [Store]'s pool, and
// the connection of a [Tx] is free for other calls. An error is the last pair of the
// sequence. Each range over the sequence reads again.
func (s *procedures) CategoryMessages(ctx context.Context, category Category, opts ...CategoryReadOption) iter.Seq2[Message, error] {
	r, err := s.configureCategoryRead(category, opts)
	return pages(r, err, func(r *pageRead) ([]Message, error) {
		return s.readCategory(ctx, r)
	}, func(m *Message) int64 { return m.GlobalPosition })
}

// pages yields the messages that read returns, page after page. Each page starts after the
// position of the last message of the previous page.
func pages(first *pageRead, err error, read func(*pageRead) ([]Message, error), position func(*Message) int64) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		r, err := *first, err
		if err == nil && r.batchSize == unlimited {
			err = &ArgumentError{Faults: []Fault{{"batch size", "Unlimited", "WithBatchSize, because the sequence reads page after page"}}}
		}
		for err == nil {
			var messages []Message
			messages, err = read(&r)
			for i := range messages {
				if !yield(messages[i], nil) {
					return
				}
			}
			if err == nil {
				if int64(len(messages)) < r.batchSize {
					return
				}
				r.position = position(&messages[len(messages)-1]) + 1
			}
		}
		yield(Message{}, err)
	}
}

// A pageRead is the read of a page, with its arguments and its result, so that it is one
// allocation.
type pageRead struct {
	readConfig
	name     string // of a stream or a category
	args     [maxArguments]any
	messages []Message
}

func (s *procedures) configureStreamRead(stream StreamName, opts []StreamReadOption) (*pageRead, error) {
	r := &pageRead{name: string(stream), readConfig: readConfig{batchSize: DefaultBatchSize}}
	r.faults.streamWithID(stream)
	for _, opt := range opts {
		opt.streamRead(&r.readConfig)
	}
	r.check(s.config)
	return r, r.faults.err()
}

func (s *procedures) configureCategoryRead(category Category, opts []CategoryReadOption) (*pageRead, error) {
	// The first global position is 1.
	r := &pageRead{name: string(category), readConfig: readConfig{position: 1, batchSize: DefaultBatchSize}}
	r.faults.category("category", category)
	for _, opt := range opts {
		opt.categoryRead(&r.readConfig)
	}
	r.check(s.config)
	return r, r.faults.err()
}

func (s *procedures) readStream(ctx context.Context, r *pageRead) ([]Message, error) {
	st, args := getStreamMessages, r.arguments(&r.name, &r.position, &r.batchSize, r.condition)
	if s.config.direct && r.condition == nil {
		st, args = directStreamMessages, r.arguments(&r.name, &r.position, r.limit())
	}
	if err := s.runPage(ctx, r, st, args); err != nil {
		return nil, explain("get messages of stream "+r.name, err)
	}
	return r.messages, nil
}

func (s *procedures) readCategory(ctx context.Context, r *pageRead) ([]Message, error) {
	st, args := s.categoryRead(r)
	if err := s.runPage(ctx, r, st, args); err != nil {
		return nil, explain("get messages of category "+r.name, err)
	}
	return r.messages, nil
}

// categoryRead returns the statement for r and its arguments.
func (s *procedures) categoryRead(r *pageRead) (*statement, []any) {
	switch {
	case r.condition != nil || !s.config.direct:
		return getCategoryMessages, r.arguments(&r.name, &r.position, &r.batchSize, r.correlation, r.member, r.size, r.condition)
	case r.correlation == nil && r.size == nil:
		return directCategoryMessages, r.arguments(&r.name, &r.position, r.limit())
	case r.correlation == nil:
		return directGroupMember, r.arguments(&r.name, &r.position, r.limit(), r.member, r.size)
	case r.size == nil:
		return directCorrelated, r.arguments(&r.name, &r.position, r.limit(), r.correlation)
	}
	return directCorrelatedGroupMember, r.arguments(&r.name, &r.position, r.limit(), r.correlation, r.member, r.size)
}

// arguments keeps the arguments in r. They are pointers, which can be passed as any without
// an allocation.
func (r *pageRead) arguments(args ...any) []any {
	return r.args[:copy(r.args[:], args)]
}

func (s *procedures) runPage(ctx context.Context, r *pageRead, st *statement, args []any) error {
	r.messages = nil // lets the previous page be freed
	if r.condition != nil {
		return blameCondition(*r.condition, s.runConditional(ctx, st, r.read, args...))
	}
	return s.run(ctx, st, r.read, args...)
}

func (r *pageRead) read(rows pgx.Rows) (err error) {
	r.messages, err = readMessages(rows)
	return err
}

// runConditional turns on the setting that conditions require, runs the statement, and
// turns the setting off.
func (s *procedures) runConditional(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	return s.runBatch(ctx, conditionOff,
		step{st: conditionOn, read: drain},
		step{st: st, read: read, args: args},
		step{st: conditionOff, read: drain})
}
