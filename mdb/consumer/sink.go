package consumer

import (
	"log/slog"

	"github.com/messagedb-go/messagedb/internal/ledger"
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
	r.engine.feed(p, epoch, []mdb.Message{r.placeholder(err)}, end)
}

// placeholder returns what is known of a message that cannot be read.
func (r *running) placeholder(err *mdb.UnreadableError) mdb.Message {
	m := mdb.Message{ID: err.ID, Stream: err.Stream, Type: err.Type, Position: err.Position, GlobalPosition: err.GlobalPosition}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unread[placeOfMessage(&m)] = err
	r.unreadAny.Store(true)
	return m
}

func placeOfMessage(m *mdb.Message) place {
	return place{m.GlobalPosition, ledger.Anchor{ID: m.ID}}
}

// cannotRead returns the error of the first message of a call that cannot be read, or nil.
func (r *running) cannotRead(ds []delivery) error {
	if !r.unreadAny.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range ds {
		if err := r.unread[placeOfMessage(&ds[i].message)]; err != nil {
			return &BatchError{i, Permanent(err)}
		}
	}
	return nil
}

// reconnect lets new connections replace those of the pool, and that of the ticks.
func (r *running) reconnect(ticks bool) {
	r.store.Pool().Reset()
	if ticks {
		r.line.stale.Store(true)
	}
}

// rewound is called by a reader that has found that messages are lost.
func (r *running) rewound(category string, end int64, gone []source.Anchor) {
	r.link.Logger.Warn("messages that a consumer has read are no longer in the store: it continues with its checkpoints",
		slog.String("consumer", r.config.name), slog.String("category", category), slog.Int64("last", end), slog.Int("missing", len(gone)))
	// The connection of the ticks may still be to the server that has these messages.
	r.line.stale.Store(true)
	r.member.forked()
}
