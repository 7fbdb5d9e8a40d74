class SequenceParallel: pass
