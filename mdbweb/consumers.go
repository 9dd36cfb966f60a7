package mdbweb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// consumersPage is all consumers.
type consumersPage struct {
	Consumers []*consumerLine
	Missing   bool // the schema of consumers
}

// A consumerLine is a consumer, with what its state means.
type consumerLine struct {
	consumer.Status

	State string  // running, waiting or stuck, which is a colour
	Text  string  // what that means
	Lag   float64 // how much is pending, on a scale of the page, from 0 to 1
	Age   time.Duration
}

func (h *Handler) consumers(w http.ResponseWriter, r *http.Request) error {
	var p consumersPage
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	list, err := h.watcher.List(ctx)
	if setup := (*mdb.SetupError)(nil); errors.As(err, &setup) {
		p.Missing, err = true, nil
	}
	if err != nil {
		return err
	}
	most := int64(1)
	for i := range list {
		p.Consumers = append(p.Consumers, lineOf(&list[i]))
		most = max(most, list[i].Pending)
	}
	for i := range p.Consumers {
		p.Consumers[i].Lag = float64(p.Consumers[i].Pending) / float64(most)
	}
	return h.render(w, r, "consumers", "Consumers", http.StatusOK, &p)
}

// LagPercent is the length of a bar.
func (l *consumerLine) LagPercent() float64 { return 100 * l.Lag }

// Short is Text in a few words.
func (l *consumerLine) Short() string {
	if len(l.Stuck) > 0 {
		return strings.ReplaceAll(string(l.Stuck[0].Kind), "_", " ")
	}
	return l.Text
}

func lineOf(s *consumer.Status) *consumerLine {
	l := &consumerLine{Status: *s, State: "running", Text: "caught up"}
	if !s.Oldest.IsZero() {
		l.Age = s.At.Sub(s.Oldest)
		l.Text = "handling"
	}
	if s.Parked > 0 {
		l.State = "waiting"
		l.Text += ", " + number(int64(s.Parked)) + " parked"
	}
	if len(s.Stuck) > 0 {
		l.State, l.Text = "stuck", s.Stuck[0].Text
	}
	return l
}

// consumerPage is one consumer with its processes and partitions.
type consumerPage struct {
	*consumerLine

	Processes  []*member
	Categories []*progress
	Keys       []consumer.ParkedKey
}

// firstKeys is how many of the parked keys the page of a consumer shows.
const firstKeys = 10

// FirstKeys returns some of the parked keys.
func (p *consumerPage) FirstKeys() []consumer.ParkedKey { return p.Keys[:min(len(p.Keys), firstKeys)] }

// A member is a process, and the colour that it has in the picture of the partitions.
type member struct {
	consumer.MemberStatus

	Hue int
}

// Ranges names the partitions.
func (m *member) Ranges() string { return ranges(m.Partitions) }

// A progress is how far a consumer is in a category.
type progress struct {
	Category       mdb.Category
	Partitions     []*cell
	Pending        int64
	Lowest, Higher int64
}

// A cell is a partition in the picture: who has it, and how much is pending.
type cell struct {
	consumer.PartitionStatus

	Owner  string
	Hue    int     // -1: nobody has it
	Height float64 // of the bar, from 0 to 1, in proportion to the partition with the most
	X      int
}

// The measures of the picture of the partitions.
const (
	cellWidth = 14
	barHeight = 42
)

// Width is that of the picture.
func (p *progress) Width() int { return cellWidth * len(p.Partitions) }

// Bar is the height of the bar of what is pending, and Top where it begins.
func (c *cell) Bar() int { return max(int(c.Height*barHeight), 2) }

// Top is explained with Bar.
func (c *cell) Top() int { return barHeight - c.Bar() }

func (h *Handler) consumer(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	d, err := h.watcher.Show(ctx, r.FormValue("name"))
	if err != nil {
		return err
	}
	p := consumerPage{consumerLine: lineOf(&d.Status), Keys: d.ParkedKeys}
	hues := make(map[uuid.UUID]int)
	names := make(map[uuid.UUID]string)
	for i := range d.Processes {
		m := &d.Processes[i]
		hues[m.ID], names[m.ID] = hue(i), cmp.Or(m.Instance, m.Info)
		p.Processes = append(p.Processes, &member{*m, hue(i)})
	}
	most := int64(1)
	for i := range d.Checkpoints {
		most = max(most, d.Checkpoints[i].Pending)
	}
	for _, c := range d.Categories {
		g := &progress{Category: c}
		for _, s := range d.Checkpoints {
			if s.Category != c {
				continue
			}
			part := &cell{PartitionStatus: s, Owner: names[s.Member], Hue: -1, Height: float64(s.Pending) / float64(most), X: cellWidth * len(g.Partitions)}
			if n, ok := hues[s.Member]; ok {
				part.Hue = n
			}
			if len(g.Partitions) == 0 || s.Position < g.Lowest {
				g.Lowest = s.Position
			}
			g.Higher = max(g.Higher, s.Position)
			g.Pending += s.Pending
			g.Partitions = append(g.Partitions, part)
		}
		p.Categories = append(p.Categories, g)
	}
	return h.render(w, r, "consumer", d.Consumer, http.StatusOK, &p)
}

// ranges returns sorted numbers as ranges.
func ranges(numbers []int) string {
	numbers = slices.Clone(numbers)
	slices.Sort(numbers)
	text := ""
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		if text != "" {
			text += ", "
		}
		if text += fmt.Sprint(numbers[i]); last > i {
			text += fmt.Sprintf("–%d", numbers[last])
		}
		i = last + 1
	}
	return text
}
