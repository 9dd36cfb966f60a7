package mdb

import (
	"cmp"
	"context"
	"fmt"
	"iter"
)

// GetStreamMessages reads a page of a stream's messages, in the order of their positions,
// in one round trip. Unless options say otherwise, it starts at the beginning and reads at
// most [DefaultBatchSize] messages. If there are none, it returns no messages and no error;
// with [RequireStream] it reports a stream that does not exist.
//
// If a message cannot be read, it returns those before it together with an
// [*UnreadableError], after which you can read on. It finds the message by reading smaller
// pages, in further round trips.
//
// You may keep the messages. Keeping one keeps its whole chunk of the page in memory;
// [Message.Clone] copies it out.
func (s *procedures) GetStreamMessages(ctx context.Context, stream StreamName, opts ...StreamOption) ([]Message, error) {
	r, err := s.configureStreamRead(stream, opts)
	if err != nil {
		return nil, err
	}
	return s.readPage(ctx, r)
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
// If a message cannot be read, it returns those before it together with an
// [*UnreadableError], as GetStreamMessages does.
//
// You may keep the messages. Keeping one keeps its whole chunk of the page in memory;
// [Message.Clone] copies it out.
func (s *procedures) GetCategoryMessages(ctx context.Context, category Category, opts ...CategoryOption) ([]Message, error) {
	r, err := s.configureCategoryRead(category, opts)
	if err != nil {
		return nil, err
	}
	return s.readPage(ctx, r)
}

// GetLastStreamMessage reads the last message of a stream, or with [OfType] the last one
// of a type, in one round trip. If there is none, the error wraps [ErrNoMessage] and names
// the stream. If the message cannot be read, the error is an [*UnreadableError].
func (s *procedures) GetLastStreamMessage(ctx context.Context, stream StreamName, opts ...LastMessageOption) (Message, error) {
	var c lastConfig
	c.faults.stream(stream)
	for _, opt := range opts {
		opt.lastMessage(&c)
	}
	if err := c.faults.err(); err != nil {
		return Message{}, err
	}
	call := ReadCall{"GetLastStreamMessage", stream, stream.Category(), s.tx != nil}
	ctx, begun := s.config.hooks.startRead(ctx, call)
	var messages []Message
	primary := c.primary || s.replica != nil && s.conflicts.recent(stream)
	err := s.reading(ctx, primary, func(s *procedures) (err error) {
		messages, err = s.lastMessage(ctx, stream, c.typ)
		return err
	})
	s.config.hooks.endRead(ctx, call, begun, messages, err)
	if err != nil {
		return Message{}, err
	}
	return messages[0], nil
}

// lastMessage returns the last message, and no other one.
func (s *procedures) lastMessage(ctx context.Context, stream StreamName, typ *string) ([]Message, error) {
	var messages []Message
	plain, ofType := getLastStreamMessage, getLastStreamMessageOfType
	if s.config.direct {
		plain, ofType = directLastMessage, directLastMessageOfType
	}
	var err error
	if typ == nil {
		err = s.run(ctx, plain, messagesInto(&messages), string(stream))
	} else {
		err = s.run(ctx, ofType, messagesInto(&messages), string(stream), *typ)
	}
	switch {
	case err != nil:
		if unreadable := s.findOne(ctx, err, identifyLast, string(stream), typ); unreadable != nil {
			return nil, unreadable
		}
		return nil, explain("get the last message of stream "+string(stream), err)
	case len(messages) == 0 && typ != nil:
		return nil, fmt.Errorf("%w of type %s in stream %s", ErrNoMessage, *typ, stream)
	case len(messages) == 0:
		return nil, fmt.Errorf("%w in stream %s", ErrNoMessage, stream)
	}
	return messages[:1], nil
}

// StreamVersion returns the position of the last message of a stream, or
// [NoStream] if it has none. It takes one round trip.
func (s *procedures) StreamVersion(ctx context.Context, stream StreamName) (int64, error) {
	var f argumentFaults
	f.stream(stream)
	if err := f.err(); err != nil {
		return 0, err
	}
	call := ReadCall{"StreamVersion", stream, stream.Category(), s.tx != nil}
	ctx, begun := s.config.hooks.startRead(ctx, call)
	version := NoStream // the server returns NULL for it
	err := s.run(ctx, s.versionStatement(), number(&version), string(stream))
	if err != nil {
		version, err = 0, explain("get the version of stream "+string(stream), err)
	}
	s.config.hooks.endRead(ctx, call, begun, nil, err)
	return version, err
}

func (s *procedures) versionStatement() *statement {
	if s.config.direct {
		return directStreamVersion
	}
	return streamVersion
}

// CategoryHead returns the global position of the last message of a category, or 0 if it has
// none, in one round trip. A subscription to the category has caught up when it has handled
// everything up to it. Global positions count the messages of all categories, so the
// difference between two of them is not a number of messages.
//
// No procedure of Message DB returns it, so it reads the table messages, by an index. If
// the role may not do that, the error is a [*SetupError].
func (s *procedures) CategoryHead(ctx context.Context, category Category) (int64, error) {
	var f argumentFaults
	f.category("category", category)
	if err := f.err(); err != nil {
		return 0, err
	}
	call := ReadCall{"CategoryHead", "", category, s.tx != nil}
	ctx, begun := s.config.hooks.startRead(ctx, call)
	var head int64
	err := s.run(ctx, directCategoryHead, number(&head), string(category))
	if err != nil {
		head, err = 0, explain("find the end of category "+string(category), err)
	}
	s.config.hooks.endRead(ctx, call, begun, nil, err)
	return head, err
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
// messages that are written meanwhile. [WithBatchSize] and [WithBatchBytes] set the size of a
// page. While the body of the loop runs, the sequence uses no connection of a [Store]'s pool, and the
// connection of a [Tx] is free for other calls. An error is the last pair of the sequence,
// after the messages before it if it is an [*UnreadableError]. Each range over the sequence
// reads again.
func (s *procedures) StreamMessages(ctx context.Context, stream StreamName, opts ...StreamOption) iter.Seq2[Message, error] {
	r, err := s.configureStreamRead(stream, opts)
	return s.pages(ctx, r, err)
}

// CategoryMessages returns a sequence of a category's messages, which it reads page after
// page like GetCategoryMessages. It ends after the first page that is not full, and may
// include messages that are written meanwhile. [WithBatchSize] sets the size of a page.
// While the body of the loop runs, the sequence uses no connection of a [Store]'s pool, and
// the connection of a [Tx] is free for other calls. An error is the last pair of the
// sequence, after the messages before it if it is an [*UnreadableError]. Each range over
// the sequence reads again.
func (s *procedures) CategoryMessages(ctx context.Context, category Category, opts ...CategoryOption) iter.Seq2[Message, error] {
	r, err := s.configureCategoryRead(category, opts)
	return s.pages(ctx, r, err)
}

// pages yields the messages of all pages, from that of first on.
func (s *procedures) pages(ctx context.Context, first *pageRead, err error) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		r, err := *first, err
		r.batchBytes = cmp.Or(r.batchBytes, DefaultBatchBytes)
		if err == nil && r.batchSize == unlimited {
			err = &ArgumentError{Faults: []Fault{unlimitedFault("sequence")}}
		}
		for err == nil {
			var messages []Message
			messages, err = s.readPage(ctx, &r)
			for i := range messages {
				if !yield(messages[i], nil) {
					return
				}
			}
			if err == nil && int64(len(messages)) < r.batchSize && !r.more {
				return
			}
			r.page = nil // lets it be freed
		}
		yield(Message{}, err)
	}
}
