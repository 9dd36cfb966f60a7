package mdb

import (
	"cmp"
	"context"
	"iter"
	"math"
)

// GetAllMessages reads a page of the messages of all categories, in the order of their global
// positions. Unless options say otherwise, it starts at the beginning and reads at most
// [DefaultBatchSize] messages. If there are none, it returns no messages and no error. A page
// may be shorter than that although there are more messages: only an empty page is the end.
//
// It never passes over a message. Categories are written independently, so a message may become
// visible after others with greater global positions. Where positions are missing, the call
// waits until each of the transactions has ended that may have drawn them, usually for
// milliseconds. A page ends before the first position that is not final; a call whose page would
// begin with one waits, for as long as ctx allows. A transaction that it has waited for
// for a second is logged, see [WithLogger].
//
// It relies on the lock that write_message takes, and so do all programs that write by it. A
// program that inserts into the table messages without it may have its messages passed over.
//
// It always reads the table, with or without [WithDirectSQL], so the role needs the privileges
// on it that Message DB grants to the role message_store. On a standby and on a proxy of
// PL/Proxy, which do not show which transactions are open, the error is a [*SetupError] or wraps
// [ErrProxied]. There is no such method on a [Tx]: it would wait for transactions that
// may wait for it.
//
// If a message cannot be read, it returns those before it together with an
// [*UnreadableError], as GetStreamMessages does.
//
// You may keep the messages. Keeping one keeps its whole chunk of the page in memory;
// [Message.Clone] copies it out.
func (s *Store) GetAllMessages(ctx context.Context, opts ...AllOption) ([]Message, error) {
	r, err := s.configureAllRead(opts)
	if err != nil {
		return nil, err
	}
	return s.hookedAllPage(ctx, r)
}

// AllMessages returns a sequence of the messages of all categories, which it reads page after
// page like GetAllMessages. It ends at an empty page, and may include messages that are written
// meanwhile. [WithBatchSize] and [WithBatchBytes] set the size of a page. While the body of the loop runs, the
// sequence uses no connection of the pool. An error is the last pair of the sequence, after the
// messages before it if it is an [*UnreadableError]. Each range over the sequence reads again.
func (s *Store) AllMessages(ctx context.Context, opts ...AllOption) iter.Seq2[Message, error] {
	first, err := s.configureAllRead(opts)
	return func(yield func(Message, error) bool) {
		r, all, err := *first, *first.all, err
		r.all = &all
		r.batchBytes = cmp.Or(r.batchBytes, DefaultBatchBytes)
		for err == nil {
			var messages []Message
			messages, err = s.hookedAllPage(ctx, &r)
			for i := range messages {
				if !yield(messages[i], nil) {
					return
				}
			}
			if err == nil && len(messages) == 0 {
				return
			}
			r.page = nil // lets it be freed
		}
		yield(Message{}, err)
	}
}

func (s *Store) configureAllRead(opts []AllOption) (*pageRead, error) {
	// The first global position is 1.
	r := &pageRead{readConfig: readConfig{position: 1, batchSize: DefaultBatchSize}, all: new(allRead)}
	for _, opt := range opts {
		opt.allRead(&r.readConfig)
	}
	r.turn()
	r.checkSince()
	r.checkAll()
	if r.batchSize == unlimited {
		r.faults = append(r.faults, unlimitedFault("read of all categories"))
	}
	return r, r.faults.err()
}

// checkAll rejects the options of other reads.
func (c *readConfig) checkAll() {
	c.batchSize = min(c.batchSize, math.MaxInt32)
	if c.condition != nil {
		c.faults.add("condition", "one", "none in a read of all categories; see OfTypes and InCategories")
	}
}

// readAllPage reads the next page. It returns messages with an [*UnreadableError], which come
// before the one that cannot be read.
func (s *Store) readAllPage(ctx context.Context, r *pageRead) ([]Message, error) {
	if r.backwards {
		return s.readSteps(ctx, r)
	}
	if err := s.findSince(ctx, r); err != nil {
		return nil, err
	}
	for {
		done, err := s.allStep(ctx, r)
		if err != nil && !isUnreadable(err) {
			return nil, contextError(ctx, err)
		}
		switch {
		case !done:
		case err == nil && len(r.page) == 0 && r.all.more: // looked at messages that are not selected
			r.position = r.past(r.all.head.Position)
		default:
			return r.page, err
		}
	}
}
