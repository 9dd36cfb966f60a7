package doorbell

// Stats is a snapshot of a bell, or of one of its shards.
type Stats struct {
	// Listening reports whether all connections are open and have been proved.
	Listening bool
	// Armed, Cooling and Off count the categories in each state.
	Armed, Cooling, Off int
	// Crowded counts those categories of Off for whose keys there is no room.
	Crowded int
	// Notifications counts the rings received.
	Notifications int64
	// Reads counts the reads of all sleepers.
	Reads int64
}

// Stats returns a snapshot.
func (b *Bell) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	stats := Stats{Listening: b.listening, Reads: b.reads}
	for _, s := range b.shards {
		stats.Notifications += s.rings
	}
	for _, c := range b.categories {
		stats.count(c)
	}
	return stats
}

// ShardStats returns a snapshot of each shard, without the categories whose shard is not known.
func (b *Bell) ShardStats() []Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Stats, len(b.shards))
	for i, s := range b.shards {
		all[i] = Stats{Listening: s.listening, Notifications: s.rings, Reads: s.reads}
	}
	for _, c := range b.categories {
		if c.placed {
			all[c.shard.number].count(c)
		}
	}
	return all
}

func (s *Stats) count(c *category) {
	switch c.state {
	case stateArmed:
		s.Armed++
	case stateCooling:
		s.Cooling++
	default:
		s.Off++
		if c.crowded {
			s.Crowded++
		}
	}
}

func (s Stats) all() int { return s.Armed + s.Cooling + s.Off }
