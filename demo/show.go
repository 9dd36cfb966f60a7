package main

import (
	"context"
	"sync"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A show is a run of the demo.
type show struct {
	db       *database
	bank     *bank
	group    *group
	totals   *totals
	board    *board
	poisoned bool // a message was written that the first version of the projection cannot handle
}

// A scene plays for a share of the time and returns its outcome in a line.
type scene struct {
	title string
	share float64
	play  func(ctx context.Context, length time.Duration) (outcome string, err error)
}

func (s *show) scenes() []scene {
	return []scene{
		{"Writers and projections", 0.13, s.follow},
		{"A process is killed with kill -9, and the other one takes over", 0.24, s.kill},
		{"A message that the projection cannot handle", 0.2, s.poison},
		{s.restartTitle(), 0.17, s.restart},
		{"NOTIFY and polling, side by side", 0.26, s.compare},
	}
}

const proofTitle = "The proof, by queries"

func newShow(db *database, length time.Duration) *show {
	s := &show{
		db:     db,
		bank:   &bank{db: db, category: db.accounts(), transfers: db.transfers()},
		group:  &group{db: db},
		totals: &totals{},
	}
	s.board = &board{begin: time.Now(), figures: s.figures}
	s.board.state = State{Length: length, Server: "PostgreSQL " + db.version}
	if db.server != nil {
		s.board.state.Server += ", started for this run"
	}
	for _, scene := range s.scenes() {
		s.board.state.Scenes = append(s.board.state.Scenes, Scene{Title: scene.title})
	}
	s.board.state.Scenes = append(s.board.state.Scenes, Scene{Title: proofTitle})
	return s
}

// window is how far back the figures on the screen go.
const window = 2 * time.Second

func (s *show) figures() (rows []Row, conflicts int64) {
	written := s.bank.messages.Load()
	handled, received := s.group.handled(), s.totals.handled()
	rows = []Row{
		{"transfers", s.bank.transferred.figures(window), -1},
		{"projection, a group", s.group.meter.figures(window), max(0, written-handled)},
		{"projection, in memory", s.totals.meter.figures(window), max(0, written-received)},
	}
	rows[1].Total = handled
	return rows, s.bank.conflicts.figures(window).Total
}

// play plays the scenes and proves their result. It goes on to the proof when the
// context scenes ends early.
func (s *show) play(all, scenes context.Context) error {
	store, err := s.db.open(all, mdb.WithNotify())
	if err != nil {
		return err
	}
	defer store.Pool().Close()
	if err := store.Check(all); err != nil {
		return err
	}
	s.bank.store = store
	if err := s.bank.openAccounts(all); err != nil {
		return err
	}

	playing, fail := context.WithCancelCause(scenes)
	defer fail(nil)
	s.group.fail = fail
	defer func() {
		for _, p := range s.group.running() {
			s.group.kill(p)
		}
	}()
	for range 2 {
		if _, err := s.group.start(firstVersion); err != nil {
			return err
		}
	}
	startFollower, stopFollowers := background(all, fail)
	defer stopFollowers()
	startFollower(func(ctx context.Context) error { return s.group.count(ctx, store) })
	startFollower(func(ctx context.Context) error { return s.totals.follow(ctx, store, s.bank.category) })
	startWriter, stopWriters := background(all, fail)
	defer stopWriters()
	for range writers {
		startWriter(s.bank.moveMoney)
	}

	err = s.playScenes(playing)
	interrupted := scenes.Err() != nil
	if cause := context.Cause(playing); cause != nil && !interrupted {
		return cause
	}
	if err != nil && !interrupted {
		return err
	}
	stopWriters()
	return s.end(all, interrupted)
}

func (s *show) playScenes(ctx context.Context) error {
	for i, scene := range s.scenes() {
		s.board.enter(i)
		outcome, err := scene.play(ctx, time.Duration(scene.share*float64(s.board.state.Length)))
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			s.board.leave(i, Skipped, "")
			return err
		}
		s.board.leave(i, Done, outcome)
	}
	return nil
}

// end waits until all that was written has been handled, and proves it.
func (s *show) end(ctx context.Context, interrupted bool) error {
	proof := len(s.board.state.Scenes) - 1
	if interrupted {
		s.board.change(func(s *State) {
			s.Interrupted = true
			for i := range proof {
				if s.Scenes[i].Status == Pending {
					s.Scenes[i].Status = Skipped
				}
			}
		})
	}
	s.board.enter(proof)
	s.board.say("the writers have stopped; waiting for the projections")
	if s.poisoned { // Ctrl-C has ended its scene
		if err := s.deploy(ctx); err != nil {
			return err
		}
		if err := s.replay(ctx); err != nil {
			return err
		}
	}
	written := s.bank.messages.Load()
	// The proof shows it if they do not get there.
	_ = await(ctx, "the projections", patience, func() bool {
		return s.group.handled() >= written && s.totals.handled() >= written
	})
	for _, p := range s.group.running() {
		if err := s.group.stop(p); err != nil {
			return err
		}
	}
	checks, err := s.db.prove(ctx, s.bank, s.totals)
	if err != nil {
		return err
	}
	s.board.change(func(s *State) { s.Proof = checks })
	s.board.leave(proof, Done, "")
	return nil
}

// background returns functions that start others and stop them all. The first error goes
// to fail.
func background(ctx context.Context, fail func(error)) (start func(func(context.Context) error), stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	start = func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil {
				fail(err)
			}
		})
	}
	return start, func() { cancel(); running.Wait() }
}
