package mdb

import (
	"context"
	"iter"

	"github.com/jackc/pgx/v5"
)

// GetStreamMessages reads the messages of a stream in the order of their
// positions: from the beginning, [DefaultBatchSize] of them at most, unless
// options say otherwise. It returns none, and no error, if the stream has no such
// messages. It takes one round trip.
//
// The messages may be kept. Keeping one message keeps its chunk of the page;
// [Message.Clone] frees it.
func (s *procedures) GetStreamMessages(ctx context.Context, stream StreamName, opts ...StreamReadOption) ([]Message, error) {
	r, err := s.configureStreamRead(stream, opts)
	if err != nil {
		return nil, err
	}
	return s.readStream(ctx, r)
}

// GetCategoryMessages reads the messages of all streams of a category in the
// order of their global positions: from the beginning, [DefaultBatchSize] of them
// at most, unless options say otherwise. It returns none, and no error, if the
// category has no such messages. It takes one round trip.
//
// A category's messages become visible in this order: what is read later has a
// higher global position, so going on behind the last message misses none, as
// long as all writers go through write_message. That holds within one category
// only.
//
// The messages may be kept. Keeping one message keeps its chunk of the page;
// [Message.Clone] frees it.
func (s *procedures) GetCategoryMessages(ctx context.Context, category Category, opts ...CategoryReadOption) ([]Message, error) {
	r, err := s.configureCategoryRead(category, opts)
	if err != nil {
		return nil, err
	}
	return s.readCategory(ctx, r)
}

// GetLastStreamMessage reads the last message of a stream, or with [OfType] the
// last one of a type. The error is [ErrNoMessage] if there is none. It takes one
// round trip.
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
	var f faults
	f.stream(stream)
	if err := f.err(); err != nil {
		return 0, err
	}
	st := streamVersion
	if s.config.direct {
		st = directStreamVersion
	}
	version := NoStream // for which the server has NULL
	if err := s.run(ctx, st, number(&version), string(stream)); err != nil {
		return 0, explain("get the version of stream "+string(stream), err)
	}
	return version, nil
}

// MessageStoreVersion returns the version of Message DB that is installed, such
// as "1.3.0". It takes one round trip.
func (s *procedures) MessageStoreVersion(ctx context.Context) (string, error) {
	var version string
	if err := s.run(ctx, messageStoreVersion, one(&version)); err != nil {
		return "", explain("get the version of Message DB", err)
	}
	return version, nil
}

// StreamMessages returns the messages of a stream as GetStreamMessages does, page
// after page, until a page comes back short: what is written meanwhile may be
// among them. The size of a page is that of [WithBatchSize]. No connection of the
// pool is in use while the loop's body runs. An error ends the sequence, as its
// last pair. The sequence may be ranged over again, and then reads again.
func (s *procedures) StreamMessages(ctx context.Context, stream StreamName, opts ...StreamReadOption) iter.Seq2[Message, error] {
	r, err := s.configureStreamRead(stream, opts)
	return pages(r, err, func(r *pageRead) ([]Message, error) {
		return s.readStream(ctx, r)
	}, func(m *Message) int64 { return m.Position })
}

// CategoryMessages returns the messages of a category as GetCategoryMessages
// does, page after page, until a page comes back short: what is written meanwhile
// may be among them. The size of a page is that of [WithBatchSize]. No connection
// of the pool is in use while the loop's body runs. An error ends the sequence, as
// its last pair. The sequence may be ranged over again, and then reads again.
func (s *procedures) CategoryMessages(ctx context.Context, category Category, opts ...CategoryReadOption) iter.Seq2[Message, error] {
	r, err := s.configureCategoryRead(category, opts)
	return pages(r, err, func(r *pageRead) ([]Message, error) {
		return s.readCategory(ctx, r)
	}, func(m *Message) int64 { return m.GlobalPosition })
}

// pages yields page after page of what read reads, each from behind the position
// of the last message of the one before.
func pages(first *pageRead, err error, read func(*pageRead) ([]Message, error), position func(*Message) int64) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		r, err := *first, err
		if err == nil && r.batchSize == unlimited {
			err = &ArgumentError{Faults: []Fault{{"batch size", "Unlimited", "WithBatchSize, as pages follow one another to the end"}}}
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

// A pageRead is what reads a page. All that the read has to keep lies in it.
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

// categoryRead returns the statement that reads what r says, and its arguments.
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

// arguments keeps the arguments in r. As pointers they cost nothing to hand on.
func (r *pageRead) arguments(args ...any) []any {
	return r.args[:copy(r.args[:], args)]
}

func (s *procedures) runPage(ctx context.Context, r *pageRead, st *statement, args []any) error {
	r.messages = nil // the page before need not be kept
	if r.condition != nil {
		return s.runConditional(ctx, st, r.read, args...)
	}
	return s.run(ctx, st, r.read, args...)
}

func (r *pageRead) read(rows pgx.Rows) (err error) {
	r.messages, err = readMessages(rows)
	return err
}

// runConditional turns the setting that conditions need on before the statement
// and off behind it.
func (s *procedures) runConditional(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	return s.runBatch(ctx, conditionOff,
		step{st: conditionOn, read: drain},
		step{st: st, read: read, args: args},
		step{st: conditionOff, read: drain})
}
