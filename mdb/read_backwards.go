package mdb

import (
	"context"
	"fmt"
	"math"
)

// Backwards returns the latest message first. Without a position, a read begins at the end; with
// [FromPosition] or [FromGlobalPosition], at that message or at the last one before it, and with
// [AfterPosition] or [AfterGlobalPosition], at the last one before the position. It reads the table
// messages, with or without [WithDirectSQL]; if the role may not do that, the error is a
// [*SetupError].
//
// A read of all categories waits for nothing then. What becomes visible later may have positions
// that it has passed.
//
// Subscriptions reject it, and so does a read with [WithCondition].
func Backwards() ReadOption {
	return readOption(func(c *readConfig) { c.backwards = true })
}

// turn finds where a read that goes backwards begins.
func (c *readConfig) turn() {
	switch {
	case !c.backwards:
		return
	case !c.positioned:
		c.position = math.MaxInt64
	case c.after:
		c.position -= 2 // from the position after it to the one before it
	}
	if c.condition != nil {
		c.faults.add("condition", "one", "none in a read that goes backwards")
	}
}

// past returns the next position after a message's.
func (c *readConfig) past(position int64) int64 {
	if c.backwards {
		return position - 1
	}
	return position + 1
}

// backwardsStatement is statement for a read that goes backwards.
func (r *pageRead) backwardsStatement() (*statement, []any) {
	r.begin, r.rows, r.inclusive = r.position, r.most, false
	if r.isStream {
		return streamBackwards, r.arguments(&r.name, &r.begin, r.limit())
	}
	return categoryBackwards, r.arguments(&r.name, &r.begin, r.limit(), r.correlation, r.member, r.size)
}

// GetLastCategoryMessage reads the last message of a category, or with [OfType] the last one of a
// type. If there is none, the error wraps [ErrNoMessage] and names the category. If the message
// cannot be read, the error is an [*UnreadableError].
//
// No procedure of Message DB returns it, so it reads the table messages, by an index. If the role
// may not do that, the error is a [*SetupError]. It takes one round trip; with OfType, one for each
// 10,000 messages that it looks at.
func (s *procedures) GetLastCategoryMessage(ctx context.Context, category Category, opts ...LastMessageOption) (Message, error) {
	var c lastConfig
	c.faults.category("category", category)
	for _, opt := range opts {
		opt.lastMessage(&c)
	}
	if err := c.faults.err(); err != nil {
		return Message{}, err
	}
	r := &pageRead{name: string(category), readConfig: readConfig{position: math.MaxInt64, backwards: true, batchSize: 1, primary: c.primary}}
	if c.typ != nil {
		r.all, r.categories, r.types = new(allRead), []string{r.name}, []string{*c.typ}
	}
	messages, err := s.readPage(ctx, r)
	switch {
	case err != nil:
		return Message{}, err
	case len(messages) == 0 && c.typ != nil:
		return Message{}, fmt.Errorf("%w of type %s in category %s", ErrNoMessage, *c.typ, category)
	case len(messages) == 0:
		return Message{}, fmt.Errorf("%w in category %s", ErrNoMessage, category)
	}
	return messages[0], nil
}

const (
	streamUpTo = `
WHERE stream_name = (SELECT $1::text) AND position <= (SELECT $2::bigint)
ORDER BY position DESC LIMIT `

	// The filters are those of a category that is read forwards, if they are given.
	categoryUpTo = `
WHERE message_store.category(stream_name) >= (SELECT $1::varchar)
	AND (message_store.category(stream_name), global_position) <= ((SELECT $1::varchar), (SELECT $2::bigint))
	AND ((SELECT $%[1]d::varchar) IS NULL OR message_store.category(metadata->>'correlationStreamName') = (SELECT $%[1]d::varchar))
	AND ((SELECT $%[2]d::bigint) IS NULL OR strpos(stream_name, '-') > 0
		AND mod(abs(('x' || left(md5(split_part(substr(stream_name, strpos(stream_name, '-') + 1), '+', 1)), 16))::bit(64)::bigint), (SELECT $%[3]d::bigint))
		= (SELECT $%[2]d::bigint))
ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT `
)

var (
	streamBackwards           = newStatement("stream_backwards", directColumns+streamUpTo+`(SELECT $3::bigint)`)
	categoryBackwards         = newStatement("category_backwards", directColumns+fmt.Sprintf(categoryUpTo, 4, 5, 6)+`(SELECT $3::bigint)`)
	identifyStreamBackwards   = newStatement("identify_stream_backwards", identifyingColumns+streamUpTo+`1`)
	identifyCategoryBackwards = newStatement("identify_category_backwards", identifyingColumns+fmt.Sprintf(categoryUpTo, 3, 4, 5)+`1`)
)
