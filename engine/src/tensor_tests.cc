// Nothing: the target that makes the precompiled header of tests needs a source.
