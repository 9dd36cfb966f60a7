package archive

// The names of steps and breakages for tests.
const (
	MoveLocked, MoveRest = moveLocked, moveRest

	Unbroken, WithoutGate, WithoutSequence, WithoutLock, FlipFirst = unbroken, withoutGate, withoutSequence, withoutLock, flipFirst
)

// A Breakage leaves out a part of a move.
type Breakage = breakage

// After makes a mover call a function after each step.
func (m *Mover) After(f func(MoveStep) error) { m.after = f }

// Break leaves out a part of the moves.
func (m *Mover) Break(b Breakage) { m.broken = b }

// Advance lets the sequence of a shard continue after a position.
var Advance = advance
