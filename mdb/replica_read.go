package mdb

import "context"

// reading calls f with what serves a read: the replica, if there is one that can, or else the
// primary. f may be called for both, so it must not use what it has read from the other.
func (s *procedures) reading(ctx context.Context, primary bool, f func(*procedures) error) error {
	r := s.replica
	if r == nil {
		return f(s)
	}
	if !primary && r.serving(ctx) {
		if err := f(&r.store.procedures); !r.elsewhere(ctx, err) {
			return err
		}
	}
	if !primary {
		r.fallbacks.Add(1)
	}
	return f(s)
}

// readSteps reads the next page. After one from the primary, the following pages are from there, too: the
// replica may have less.
func (s *procedures) readSteps(ctx context.Context, r *pageRead) (ms []Message, err error) {
	if s.replica == nil || r.all != nil {
		return s.takeSteps(ctx, r)
	}
	r.primary = r.primary || r.isStream && s.conflicts.recent(StreamName(r.name))
	begin := pageStart{r.position, r.sought, r.required}
	err = s.reading(ctx, r.primary, func(on *procedures) (err error) {
		r.primary = on == s
		r.restart(begin)
		ms, err = on.takeSteps(ctx, r)
		return err
	})
	return ms, err
}

// A pageStart is what a page changes of its read, and what it begins with.
type pageStart struct {
	position         int64
	sought, required bool
}

// restart begins a page again.
func (r *pageRead) restart(p pageStart) {
	r.position, r.sought, r.required = p.position, p.sought, p.required
	r.clear()
	r.search, r.searched = nil, false
	r.succeeds, r.fails = 0, 0
}
