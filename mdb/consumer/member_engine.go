package consumer

// inHand returns how many messages of each partition are in memory.
func (e *engine) inHand() map[partition]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := make(map[partition]int, len(e.parts))
	for id, p := range e.parts {
		for _, c := range p.chunks {
			n[id] += len(c.items) - c.first
		}
	}
	return n
}

// checkpoints returns where the server has confirmed each partition to be.
func (e *engine) checkpoints() map[partition]int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	stored := make(map[partition]int64, len(e.parts))
	for id, p := range e.parts {
		stored[id] = p.stored
	}
	return stored
}
