package mdb

import (
	"context"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/internal/inspection"
	"github.com/messagedb-go/messagedb/internal/searchpath"
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

// AllStatements returns the texts of the statements that read all categories, or backwards, by name.
func AllStatements() map[string]string {
	texts := make(map[string]string)
	for _, st := range []*statement{
		allForwards.all, allForwards.ofTypes, allForwards.inCategories, allForwards.ofTypesInCategories, contiguousInAll, beforeInAll, latestInAll, barrierDrawn,
		allBackwards.all, allBackwards.ofTypes, allBackwards.inCategories, allBackwards.ofTypesInCategories, streamBackwards, categoryBackwards,
		sinceInAll, sinceInCategory, sinceInStream,
	} {
		texts[st.name[len("mdb_"):len(st.name)-len("_00000000")]] = st.sql
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
func AnchorsOf(text string) ([]source.Anchor, error) {
	_, rest, _ := strings.Cut(text, ":")
	kind, _, _ := strings.Cut(rest, ":")
	c, err := parseCheckpoint(text, kind)
	return c.at.Anchors(), err
}

// FirstRest is how long a subscription first rests from the replica.
var FirstRest = restRetry.Min

// FindMessages is the statement that searches for the messages of a write.
var FindMessages = findMessages.sql

// Inspection is the statement of Check.
var Inspection = inspection.Check

// PathInspection is the statement that looks at the search path.
const PathInspection = searchpath.Inspection

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

// Asks reports whether the store asks about statements, or is to say what follows from the answer.
func Asks(s *Store) bool {
	s.watcher.mu.Lock()
	defer s.watcher.mu.Unlock()
	return s.watcher.asking
}

// GroupAll makes the store send each write in a group, also one that no other write waits for.
func GroupAll(s *Store) { s.groups.least = 1 }

// HoldTurn takes the turn of a category when it is free, so that all writes to it wait until release is called.
func HoldTurn(s *Store, category Category) (release func()) {
	g := s.groups
	take := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.queues[category] != nil { // by a group that has told its writes, and ends soon
			return false
		}
		g.queue(category)
		return true
	}
	for !take() {
		runtime.Gosched()
	}
	return func() { g.passTurn(category) }
}

// Waiting returns how many writes wait for the turn of a category.
func Waiting(s *Store, category Category) int {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	if q := s.groups.queues[category]; q != nil {
		return len(q.waiting)
	}
	return 0
}

// Groups returns how many categories have a turn that is taken, and how many goroutines send
// groups.
func Groups(s *Store) (queues, active int) {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	return len(s.groups.queues), s.groups.active
}

// AwaitsGroups reports whether Close waits for groups.
func AwaitsGroups(s *Store) bool {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	return s.groups.idle != nil
}

// NeverRest makes writes that the server refuses stay in groups: each rest is over when it is next asked for.
func NeverRest(s *Store) {
	now := time.Now()
	s.groups.rests.now = func() time.Time { // called with the lock held
		now = now.Add(2 * groupRest)
		return now
	}
}

// RestOn makes writes that the server refuses stay out of groups for ever.
func RestOn(s *Store) {
	now := time.Now()
	s.groups.rests.now = func() time.Time { return now }
}

// GroupStatements returns the statements of groups, by direct SQL and by procedures.
func GroupStatements() (direct, calls string) { return groupWriteDirect.sql, groupWriteCalls.sql }

// ReadsReplica reports whether reads use the replica, after it was asked.
func ReadsReplica(ctx context.Context, s *Store) bool { return s.replica.serving(ctx) }

// LeaveReplica makes reads use the primary until ReturnToReplica.
func LeaveReplica(s *Store) {
	r := s.replica
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serves.Store(false)
	r.next = time.Now().Add(time.Hour)
}

// ReturnToReplica makes reads use the replica, whether or not it has caught up.
func ReturnToReplica(s *Store) {
	r := s.replica
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = true
	r.serves.Store(true)
	r.returned = time.Now()
}

// AskReplica makes reads leave the replica, and the next one ask it whether they can return.
func AskReplica(s *Store) {
	r := s.replica
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serves.Store(false)
	r.next = time.Time{}
}

// SetReplicaPatience sets how long subscriptions wait for the replica, before they begin.
func SetReplicaPatience(s *Store, d time.Duration) { s.replica.patience = d }
