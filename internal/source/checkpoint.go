// Package source reads messages page after page, and notices that the store has lost
// messages that were read before.
//
// History is lost from its end: by a failover to a standby that had not received it, or by
// a restore to an earlier moment. A category's messages become durable in the order of
// their positions, so if the last known message is still there, no message before it is
// missing. A position alone does not show that, because new messages get the positions of
// the lost ones. An [Anchor] does.
//
// Package mdb implements [Source]. This package exists so that other packages of the module
// can use the implementation without making it public.
package source

import (
	"math"
	"sort"

	"github.com/google/uuid"
)

// An Anchor identifies a message at a place. The ID alone does not: an import may write a
// message with the same ID to the same position of another history. The time differs then.
type Anchor struct {
	Position int64 // in the stream, or the global position of a category's message
	ID       uuid.UUID
	Time     int64 // in microseconds since 2000, as PostgreSQL counts them
}

// maxAnchors is the number of anchors of a checkpoint: the newest, and 16 older ones.
const maxAnchors = 17

// growth is how fast distances between a checkpoint's anchors grow: an anchor is at most
// about 8 times as far from the newest one as the next newer anchor. Of three anchors in a
// row, the last is more than 8 times as far away as the first, so 17 of them reach back at
// least 8^8 positions.
const growth = 8

// A Checkpoint says up to where messages are handled, and with which the history can be
// compared. Its zero value is the beginning of a category. Checkpoints share memory that
// is never changed.
type Checkpoint struct {
	// Position is that of the last handled message. It is beyond the newest anchor if
	// nothing is known of the messages between them, or if there are none.
	Position int64

	anchors []Anchor // the newest first
	latest  []Latest // see WithLatest
}

// At returns a checkpoint without anchors.
func At(position int64) Checkpoint { return Checkpoint{Position: position} }

// Known returns the checkpoint after the newest of these anchors, which are in descending
// order.
func Known(anchors []Anchor) Checkpoint {
	if len(anchors) == 0 {
		return Checkpoint{}
	}
	return Checkpoint{Position: anchors[0].Position, anchors: thin(len(anchors), func(i int) Anchor { return anchors[i] })}
}

// Anchors returns the anchors, the newest first. They must not be changed.
func (c Checkpoint) Anchors() []Anchor { return c.anchors }

// Advance returns the checkpoint after n more messages, in ascending order.
func (c Checkpoint) Advance(n int, message func(i int) Anchor) Checkpoint {
	if n == 0 {
		return c
	}
	anchors := thin(n+len(c.anchors), func(i int) Anchor {
		if i < n {
			return message(n - 1 - i)
		}
		return c.anchors[i-n]
	})
	return Checkpoint{anchors[0].Position, anchors, c.latest}
}

// Past returns the checkpoint with a later position, and the same anchors.
func (c Checkpoint) Past(position int64) Checkpoint {
	c.Position = position
	return c
}

// thin selects from n anchors in descending order the first, and then always the farthest
// one whose distance from it is at most 8 times that of the one before, or else the next.
// That can be repeated: an anchor that is left out is never missed later, because distances
// grow by the same amount, and so their ratios shrink.
func thin(n int, anchor func(i int) Anchor) []Anchor {
	newest := anchor(0)
	kept := append(make([]Anchor, 0, min(n, maxAnchors)), newest)
	for last := 0; len(kept) < maxAnchors && last < n-1; {
		distance := max(newest.Position-kept[len(kept)-1].Position, 1)
		least := int64(math.MinInt64)
		if distance < math.MaxInt64/growth/2 {
			least = newest.Position - growth*distance
		}
		farthest := sort.Search(n, func(i int) bool { return anchor(i).Position < least }) - 1
		last = max(farthest, last+1)
		kept = append(kept, anchor(last))
	}
	return kept
}
