package consumer

import (
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// feed passes messages of a reader to the engine.
func (r *running) feed(p partition, epoch int64, ms []mdb.Message, end source.Checkpoint) {
	r.engine.feed(p, epoch, ms, end)
}

func (r *running) room(p partition) bool { return r.engine.room(p) }

// unreadable passes on what is known of a message that cannot be read. The handler is not
// called with it.
func (r *running) unreadable(p partition, epoch int64, err *mdb.UnreadableError, end source.Checkpoint) {
	r.engine.feedUnreadable(p, epoch, err, end)
}

// feedUnreadable is like feed for a message that cannot be read.
func (e *engine) feedUnreadable(p partition, epoch int64, err *mdb.UnreadableError, end source.Checkpoint) {
	e.mu.Lock()
	defer e.unlock()
	if part := e.parts[p]; part != nil && part.epoch == epoch && !part.surrendered {
		e.add(part, []mdb.Message{placeholder(err)}, placeOf(end))
		part.chunks[len(part.chunks)-1].deliveries[0].unreadable = err
	}
}

// placeholder returns what is known of a message that cannot be read.
func placeholder(err *mdb.UnreadableError) mdb.Message {
	return mdb.Message{ID: err.ID, Stream: err.Stream, Type: err.Type, Position: err.Position, GlobalPosition: err.GlobalPosition}
}

// cannotRead returns the error of the first message of a call that cannot be read, or nil.
func cannotRead(ds []delivery) error {
	for i := range ds {
		if err := ds[i].unreadable; err != nil {
			return &BatchError{i, Permanent(err)}
		}
	}
	return nil
}

// reconnect lets new connections replace those of the pool, and that of the ticks.
func (r *running) reconnect(ticks bool) {
	r.config.home.Pool().Reset()
	if r.config.elsewhere {
		r.store.Pool().Reset()
	}
	if ticks {
		r.line.stale.Store(true)
	}
}

// rewound is called by a reader that has found that messages are lost.
func (r *running) rewound(category string, end int64, gone []source.Anchor) {
	r.link.Logger.Warn("messages that a consumer has read are no longer in the store: it continues with its checkpoints",
		r.member.attrs("category", category, "to", end, "missing", len(gone))...)
	// The connection of the ticks may still be to the server that has these messages.
	r.line.stale.Store(true)
	r.member.forked()
}
