package main

import (
	"fmt"
	"sync"
	"time"
)

// A State is all that the screen shows. The view is a function of it.
type State struct {
	Server      string
	Elapsed     time.Duration
	Length      time.Duration
	Interrupted bool
	Scenes      []Scene
	Rows        []Row
	Conflicts   int64
	Note        string // why figures are as they are just now
	Proof       []Check
	Removed     []string
}

// A Scene is a part of the demo.
type Scene struct {
	Title   string
	Status  Status
	Lines   []string // what has happened
	Outcome string
}

// A Status is where a scene is.
type Status int

// The statuses. A scene that Ctrl-C ended, or kept from beginning, was skipped.
const (
	Pending Status = iota
	Running
	Done
	Skipped
)

// A Row is a line of the table of figures.
type Row struct {
	Name string
	figures
	Waiting int64 // messages that are written and not handled; -1 where that says nothing
}

// A board keeps the state while the demo runs.
type board struct {
	begin   time.Time
	figures func() ([]Row, int64)
	onLine  func(string) // receives each line as it comes, if not nil

	mu    sync.Mutex // guards what follows
	state State
	lines func() []string // of the running scene, if they change
}

func (b *board) snapshot() State {
	rows, conflicts := b.figures()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state
	s.Scenes = append([]Scene(nil), s.Scenes...)
	s.Rows, s.Conflicts, s.Elapsed = rows, conflicts, time.Since(b.begin)
	if b.lines != nil {
		for i := range s.Scenes {
			if s.Scenes[i].Status == Running {
				s.Scenes[i].Lines = b.lines()
			}
		}
	}
	return s
}

func (b *board) change(f func(*State)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.state)
}

func (b *board) enter(i int) {
	title := ""
	b.change(func(s *State) {
		s.Scenes[i].Status = Running
		title = s.Scenes[i].Title
	})
	b.tell(fmt.Sprintf("%d %s", i+1, title))
}

// leave ends a scene as done or skipped.
func (b *board) leave(i int, status Status, outcome string) {
	b.change(func(s *State) {
		s.Scenes[i].Status, s.Scenes[i].Outcome, s.Note = status, outcome, ""
		b.lines = nil
	})
	if outcome != "" {
		b.tell("    = " + outcome)
	}
}

// say adds a line to the running scene.
func (b *board) say(format string, args ...any) {
	line := fmt.Sprintf("%5.1f s  ", time.Since(b.begin).Seconds()) + fmt.Sprintf(format, args...)
	b.change(func(s *State) {
		for i := range s.Scenes {
			if s.Scenes[i].Status == Running {
				s.Scenes[i].Lines = append(s.Scenes[i].Lines, line)
			}
		}
	})
	b.tell("    " + line)
}

// show replaces the lines of the running scene by those of f, now and whenever asked.
func (b *board) show(f func() []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = f
}

func (b *board) note(text string) { b.change(func(s *State) { s.Note = text }) }

func (b *board) removed(lines []string) { b.change(func(s *State) { s.Removed = lines }) }

func (b *board) tell(line string) {
	if b.onLine != nil {
		b.onLine(line)
	}
}
