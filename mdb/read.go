package mdb

import (
	"context"
	"encoding/json"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// procedures are Message DB's, called on a Store or within a Tx. The methods that
// follow are those of both.
type procedures struct {
	runner
	config *storeConfig
	bell   *bell
	tx     *txState // nil on a Store
}

// GetStreamMessages reads the messages of a stream in the order of their
// positions: from the beginning, [DefaultBatchSize] of them at most, unless
// options say otherwise. It returns none, and no error, if the stream has no such
// messages. It takes one round trip.
//
// The messages may be kept. Keeping one message keeps its chunk of the page;
// [Message.Clone] frees it.
func (p *procedures) GetStreamMessages(ctx context.Context, stream StreamName, opts ...StreamReadOption) ([]Message, error) {
	c, err := p.configureStreamRead(stream, opts)
	if err != nil {
		return nil, err
	}
	return p.readStream(ctx, stream, c)
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
func (p *procedures) GetCategoryMessages(ctx context.Context, category Category, opts ...CategoryReadOption) ([]Message, error) {
	c, err := p.configureCategoryRead(category, opts)
	if err != nil {
		return nil, err
	}
	return p.readCategory(ctx, category, c)
}

// GetLastStreamMessage reads the last message of a stream, or with [OfType] the
// last one of a type. The error is [ErrNoMessage] if there is none. It takes one
// round trip.
func (p *procedures) GetLastStreamMessage(ctx context.Context, stream StreamName, opts ...LastMessageOption) (Message, error) {
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
	if p.config.direct {
		plain, ofType = directLastMessage, directLastMessageOfType
	}
	var err error
	if c.typ == nil {
		err = p.run(ctx, plain, messagesInto(&messages), string(stream))
	} else {
		err = p.run(ctx, ofType, messagesInto(&messages), string(stream), *c.typ)
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
func (p *procedures) StreamVersion(ctx context.Context, stream StreamName) (int64, error) {
	var f faults
	f.stream(stream)
	if err := f.err(); err != nil {
		return 0, err
	}
	st := streamVersion
	if p.config.direct {
		st = directStreamVersion
	}
	var version *int64
	if err := p.run(ctx, st, one(&version), string(stream)); err != nil {
		return 0, explain("get the version of stream "+string(stream), err)
	}
	if version == nil {
		return NoStream, nil
	}
	return *version, nil
}

// MessageStoreVersion returns the version of Message DB that is installed, such
// as "1.3.0". It takes one round trip.
func (p *procedures) MessageStoreVersion(ctx context.Context) (string, error) {
	var version string
	if err := p.run(ctx, messageStoreVersion, one(&version)); err != nil {
		return "", explain("get the version of Message DB", err)
	}
	return version, nil
}

// StreamMessages returns the messages of a stream as GetStreamMessages does, page
// after page, until a page comes back short: what is written meanwhile may be
// among them. The size of a page is that of [WithBatchSize]. No connection of the
// pool is in use while the loop's body runs. An error ends the sequence, as its
// last pair. The sequence may be ranged over again, and then reads again.
func (p *procedures) StreamMessages(ctx context.Context, stream StreamName, opts ...StreamReadOption) iter.Seq2[Message, error] {
	c, err := p.configureStreamRead(stream, opts)
	return pages(c, err, func(c readConfig) ([]Message, error) {
		return p.readStream(ctx, stream, c)
	}, func(m *Message) int64 { return m.Position })
}

// CategoryMessages returns the messages of a category as GetCategoryMessages
// does, page after page, until a page comes back short: what is written meanwhile
// may be among them. The size of a page is that of [WithBatchSize]. No connection
// of the pool is in use while the loop's body runs. An error ends the sequence, as
// its last pair. The sequence may be ranged over again, and then reads again.
func (p *procedures) CategoryMessages(ctx context.Context, category Category, opts ...CategoryReadOption) iter.Seq2[Message, error] {
	c, err := p.configureCategoryRead(category, opts)
	return pages(c, err, func(c readConfig) ([]Message, error) {
		return p.readCategory(ctx, category, c)
	}, func(m *Message) int64 { return m.GlobalPosition })
}

// pages yields page after page of what read reads, each from behind the position
// of the last message of the one before.
func pages(c readConfig, err error, read func(readConfig) ([]Message, error), position func(*Message) int64) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		c, err := c, err
		if err == nil && c.batchSize == unlimited {
			err = &ArgumentError{Faults: []Fault{{"batch size", "Unlimited", "WithBatchSize, as pages follow one another to the end"}}}
		}
		for err == nil {
			var messages []Message
			messages, err = read(c)
			for i := range messages {
				if !yield(messages[i], nil) {
					return
				}
			}
			if err == nil {
				if int64(len(messages)) < c.batchSize {
					return
				}
				c.position = position(&messages[len(messages)-1]) + 1
			}
		}
		yield(Message{}, err)
	}
}

func (p *procedures) configureStreamRead(stream StreamName, opts []StreamReadOption) (readConfig, error) {
	c := readConfig{batchSize: DefaultBatchSize}
	c.faults.streamWithID(stream)
	for _, opt := range opts {
		opt.streamRead(&c)
	}
	c.check(p.config)
	return c, c.faults.err()
}

func (p *procedures) configureCategoryRead(category Category, opts []CategoryReadOption) (readConfig, error) {
	// The first global position is 1.
	c := readConfig{position: 1, batchSize: DefaultBatchSize}
	c.faults.category("category", category)
	for _, opt := range opts {
		opt.categoryRead(&c)
	}
	c.check(p.config)
	return c, c.faults.err()
}

func (p *procedures) readStream(ctx context.Context, stream StreamName, c readConfig) ([]Message, error) {
	var messages []Message
	read := messagesInto(&messages)
	var err error
	switch {
	case c.condition != nil:
		err = p.runConditional(ctx, getStreamMessages, read, string(stream), c.position, c.batchSize, c.condition)
	case p.config.direct:
		err = p.run(ctx, directStreamMessages, read, string(stream), c.position, c.limit())
	default:
		err = p.run(ctx, getStreamMessages, read, string(stream), c.position, c.batchSize, nil)
	}
	if err != nil {
		return nil, explain("get messages of stream "+string(stream), err)
	}
	return messages, nil
}

func (p *procedures) readCategory(ctx context.Context, category Category, c readConfig) ([]Message, error) {
	var messages []Message
	st, args := p.categoryRead(category, c)
	run := p.run
	if c.condition != nil {
		run = p.runConditional
	}
	if err := run(ctx, st, messagesInto(&messages), args...); err != nil {
		return nil, explain("get messages of category "+string(category), err)
	}
	return messages, nil
}

// categoryRead returns the statement that reads what c says, and its arguments.
func (p *procedures) categoryRead(category Category, c readConfig) (*statement, []any) {
	name := string(category)
	switch {
	case c.condition != nil || !p.config.direct:
		return getCategoryMessages, []any{name, c.position, c.batchSize, c.correlation, c.member, c.size, c.condition}
	case c.correlation == nil && c.size == nil:
		return directCategoryMessages, []any{name, c.position, c.limit()}
	case c.correlation == nil:
		return directGroupMember, []any{name, c.position, c.limit(), c.member, c.size}
	case c.size == nil:
		return directCorrelated, []any{name, c.position, c.limit(), c.correlation}
	}
	return directCorrelatedGroupMember, []any{name, c.position, c.limit(), c.correlation, c.member, c.size}
}

// runConditional turns the setting that conditions need on before the statement
// and off behind it.
func (p *procedures) runConditional(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	return p.runBatch(ctx, conditionOff,
		step{st: conditionOn, read: drain},
		step{st: st, read: read, args: args},
		step{st: conditionOff, read: drain})
}

func messagesInto(messages *[]Message) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*messages, err = readMessages(rows)
		return err
	}
}

// readMessages reads all rows. What pgx lends is copied by the page before the
// next row overwrites it.
func readMessages(rows pgx.Rows) ([]Message, error) {
	page := scan.NewPage()
	defer page.Release()
	for rows.Next() {
		if page.Len() == 0 {
			if err := describe(page, rows); err != nil {
				return nil, err
			}
		}
		if err := page.Add(rows.RawValues()); err != nil {
			return nil, err
		}
	}
	if page.Len() == 0 || rows.Err() != nil {
		return nil, rows.Err()
	}
	messages := make([]Message, page.Len())
	for i := range messages {
		row := page.Row(i)
		messages[i] = Message{
			ID:             row.ID,
			Stream:         StreamName(row.Stream),
			Type:           row.Type,
			Position:       row.Position,
			GlobalPosition: row.GlobalPosition,
			Time:           row.Time,
			Data:           json.RawMessage(row.Data),
			Metadata:       json.RawMessage(row.Metadata),
		}
	}
	return messages, nil
}

func describe(page *scan.Page, rows pgx.Rows) error {
	fields := rows.FieldDescriptions()
	if err := page.Begin(len(fields)); err != nil {
		return err
	}
	for i := range fields {
		if err := page.Column(i, fields[i].Name, fields[i].DataTypeOID, fields[i].Format); err != nil {
			return err
		}
	}
	return nil
}

// one reads a single row into the destinations.
func one(destinations ...any) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(destinations...); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// drain reads rows that say nothing.
func drain(rows pgx.Rows) error {
	for rows.Next() {
		continue
	}
	return rows.Err()
}
