package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// stateIn returns a state in which the scene of the number runs, with everything that a
// screen can show then.
func stateIn(running int) State {
	f := figures{Total: 12345, PerSecond: 87.6, P50: 12300 * time.Microsecond, P99: 1234 * time.Millisecond}
	s := State{
		Server: "PostgreSQL 18.1, started for this run", Elapsed: 12 * time.Second, Length: 30 * time.Second,
		Rows:      []Row{{"transfers", f, -1}, {"projection, a group", f, 1234}, {"projection, in memory", f, 0}},
		Conflicts: 123, Note: "Calls fail and are repeated while the server is away, so latency rises.",
	}
	for i, scene := range (&show{db: &database{}}).scenes() {
		s.Scenes = append(s.Scenes, Scene{Title: scene.title, Status: Done, Outcome: strings.Repeat("outcome ", 9)})
		if i == running {
			s.Scenes[i].Status = Running
			s.Scenes[i].Lines = []string{"first", "second", strings.Repeat("third ", 20), "fourth"}
		}
		if i > running {
			s.Scenes[i].Status = Pending
		}
	}
	return s
}

// TestRenderFits checks that no line is wider and the screen not higher than the
// terminal, and that what matters most is on it.
func TestRenderFits(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {40, 10}, {120, 40}, {20, 4}, {1, 1}, {0, 0}} {
		width, height := size[0], size[1]
		t.Run(fmt.Sprintf("%dx%d", width, height), func(t *testing.T) {
			t.Parallel()
			for running := range 6 {
				screen := render(stateIn(running), width, height)
				lines := strings.Split(screen, "\n")
				if len(lines) > max(1, height) {
					t.Errorf("%d lines, want at most %d:\n%s", len(lines), height, screen)
				}
				for _, l := range lines {
					if got := ansi.StringWidth(l); got > width {
						t.Errorf("a line is %d wide, want at most %d: %q", got, width, l)
					}
				}
				if width < 40 || running == 5 {
					continue
				}
				want := []string{"Message DB demo", fmt.Sprintf("▸ %d ", running+1), "fourth", "transfers"}
				if height >= 24 {
					want = append(want, intro[2][:20], "Ctrl-C ends", "123 conflicts", "first", "so latency rises")
				}
				if height >= 40 && running > 0 {
					want = append(want, "outcome")
				}
				for _, text := range want {
					if !strings.Contains(ansi.Strip(screen), text) {
						t.Errorf("scene %d: %q is missing:\n%s", running+1, text, ansi.Strip(screen))
					}
				}
			}
		})
	}
}

// TestFixedTextsFit checks that what is always the same is not cut at 80 columns.
func TestFixedTextsFit(t *testing.T) {
	t.Parallel()
	s := stateIn(1)
	s.Scenes[1].Lines = nil
	if screen := ansi.Strip(render(s, 80, 23)); strings.Contains(screen, "…") {
		t.Errorf("something is cut:\n%s", screen)
	}
}

// TestScreen checks that the model takes in the size, and that Ctrl-C interrupts.
func TestScreen(t *testing.T) {
	t.Parallel()
	interrupts := 0
	b := &board{figures: func() ([]Row, int64) { return nil, 0 }, state: stateIn(0)}
	s := &screen{board: b, interrupt: func() { interrupts++ }}
	s.Update(tea.WindowSizeMsg{Width: 30, Height: 3})
	if lines := strings.Split(s.View().Content, "\n"); len(lines) != 3 {
		t.Errorf("%d lines, want 3", len(lines))
	}
	s.Update(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl})
	if interrupts != 1 {
		t.Errorf("%d interrupts, want 1", interrupts)
	}
	if s.Update(finished{}); s.View().Content != "" {
		t.Errorf("the finished screen shows %q", s.View().Content)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1,000", count(1234567): "1,234,567",
		latency(0): "–", latency(1234 * time.Microsecond): "1.2 ms", latency(56 * time.Millisecond): "56 ms", latency(1500 * time.Millisecond): "1.5 s",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
