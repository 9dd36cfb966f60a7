package mdb

import (
	"context"
	"io"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
)

// DirectStatements returns the texts of the direct statements that read, by name, for the
// tests of their plans.
func DirectStatements() map[string]string {
	texts := make(map[string]string)
	for _, st := range []*statement{
		directStreamMessages, directCategoryMessages, directCorrelated, directGroupMember,
		directCorrelatedGroupMember, directLastMessage, directLastMessageOfType, directStreamVersion,
		directCategoryShared,
	} {
		texts[st.name[len("mdb_direct_"):len(st.name)-len("_00000000")]] = st.sql
	}
	return texts
}

// AnchorStatements returns the texts of the statements that look for messages by their
// anchors, by name, and of those that begin with one.
func AnchorStatements() map[string]string {
	texts := make(map[string]string)
	for _, st := range []*statement{
		directStreamAnchored, directCategoryAnchored, lookInStream, lookInCategory, lastInStream, lastInCategory,
		beforeInStream, beforeInCategory, laterInStream, laterInCategory, compareInStream, compareInCategory,
	} {
		texts[st.name[len("mdb_"):len(st.name)-len("_00000000")]] = st.sql
	}
	return texts
}

// Suspect does what a store does after a read without an answer.
func Suspect(s *Store) { s.watcher.suspect() }

// LoseConnection does what a store does after a call has lost its connection.
func LoseConnection(s *Store) { s.gate.note(context.Background(), io.ErrUnexpectedEOF) }

// Looked reports whether the store has looked at the search path.
func Looked(s *Store) bool { return s.first.done.Load() }

// AnchorsOf returns what the text of a checkpoint knows of messages, the newest first.
func AnchorsOf(text string, ofStream bool) ([]source.Anchor, error) {
	kind := categoryKind
	if ofStream {
		kind = streamKind
	}
	c, err := parseCheckpoint(text, kind)
	return c.at.Anchors(), err
}

// FindMessages is the statement that searches for the messages of a write.
var FindMessages = findMessages.sql

// Inspection is the statement of Check.
var Inspection = inspection

// PathInspection is the statement that looks at the search path.
const PathInspection = pathInspection

// SetSilence sets how long a statement of the store may be without a byte before the store
// asks about it, also for the statements that are being executed.
func SetSilence(s *Store, d time.Duration) {
	w := s.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = d
	for _, c := range w.calls {
		c.patience = 0
	}
	if w.ticking {
		w.timer.Reset(d / silenceTicks)
	}
}
