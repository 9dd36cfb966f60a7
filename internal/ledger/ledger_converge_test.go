package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestConvergence checks that after random joins and crashes, the members share the partitions
// as equally as possible within a few rounds of ticks, and that nobody acts afterwards.
func TestConvergence(t *testing.T) {
	t.Parallel()
	steps := 12
	if !testing.Short() {
		steps = 60
	}
	for _, categories := range [][]string{{"one"}, {"one", "two", "three"}} {
		for _, partitions := range []int{1, 3, 16, 64} {
			t.Run(fmt.Sprintf("%d categories, %d partitions", len(categories), partitions), func(t *testing.T) {
				t.Parallel()
				g := newGroup(t)
				rng := rand.New(rand.NewPCG(uint64(partitions), uint64(len(categories))))
				var alive []ledger.Member
				for range steps {
					if len(alive) == 0 || len(alive) < 7 && rng.IntN(2) == 0 {
						p := g.params(categories...)
						p.Partitions = partitions
						alive = append(alive, g.join(p))
					} else {
						i := rng.IntN(len(alive))
						g.expire(alive[i])
						alive = slices.Delete(alive, i, i+1)
					}
					g.converge(rng, alive, partitions, len(categories))
				}
			})
		}
	}
}

func (g *group) converge(rng *rand.Rand, alive []ledger.Member, partitions, categories int) {
	g.Helper()
	if len(alive) == 0 {
		return
	}
	for round := 1; ; round++ {
		acted := 0
		rng.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
		for _, m := range alive {
			b, held := g.balance(m)
			acted += b.Claimed + g.surplus(m, b, held)
		}
		if acted == 0 {
			break
		}
		if round > 4 {
			g.Fatalf("%d members of %d partitions still move some in round %d", len(alive), partitions, round)
		}
	}
	owned := map[int]bool{}
	for _, m := range alive {
		ns := numbers(g.read(m).Rows)
		if n := len(ns); n < partitions/len(alive) || n > (partitions+len(alive)-1)/len(alive) {
			g.Errorf("a member has %d of %d partitions beside %d others", n, partitions, len(alive)-1)
		}
		equal(g, "rows", len(g.read(m).Rows), len(ns)*categories)
		for _, n := range ns {
			owned[n] = true
		}
	}
	equal(g, "owned partitions", len(owned), partitions)
}
