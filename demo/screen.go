package main

import (
	"errors"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/term"
)

// terminal reports whether there is one to draw on.
func terminal() bool {
	return term.IsTerminal(os.Stdin.Fd()) && term.IsTerminal(os.Stdout.Fd()) && os.Getenv("TERM") != "dumb"
}

// onScreen draws the board while work runs.
func onScreen(b *board, interrupt func(), work func() error) error {
	p := tea.NewProgram(&screen{board: b, interrupt: interrupt}, tea.WithoutSignalHandler())
	result := make(chan error, 1)
	go func() {
		result <- work()
		p.Send(finished{})
	}()
	if _, err := p.Run(); err != nil {
		interrupt()
		return errors.Join(err, <-result)
	}
	return <-result
}

// A screen is the model of Bubble Tea.
type screen struct {
	board         *board
	interrupt     func()
	width, height int
	finished      bool
}

type (
	tick     struct{}
	finished struct{}
)

func nextTick() tea.Cmd {
	return tea.Tick(100*time.Millisecond, func(time.Time) tea.Msg { return tick{} })
}

// Init starts the clock.
func (s *screen) Init() tea.Cmd { return nextTick() }

// Update takes in keys and sizes.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tick:
		return s, nextTick()
	case finished:
		s.finished = true
		return s, tea.Quit
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		if msg.String() == "ctrl+c" || msg.String() == "q" {
			s.interrupt()
		}
	}
	return s, nil
}

// View draws the board on the alternate screen, and leaves nothing there.
func (s *screen) View() tea.View {
	v := tea.NewView("")
	if !s.finished {
		v.Content = render(s.board.snapshot(), s.width, s.height)
	}
	v.AltScreen = true
	return v
}

// report prints the summary, which contains all of the proof. It fails if that does.
func report(s State) error {
	text := summary(s)
	if terminal() {
		if width, _, err := term.GetSize(os.Stdout.Fd()); err == nil {
			text = ansi.Wordwrap(text, width, "")
		}
	} else {
		text = "\n" + proof(s)
	}
	out := colorprofile.NewWriter(os.Stdout, os.Environ())
	if _, err := out.WriteString(text); err != nil {
		return err
	}
	if !proved(s) {
		return errors.New("the proof has failed")
	}
	return nil
}
