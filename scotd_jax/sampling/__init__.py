"""How a model speaks: keyed noise, policies, stop rules, engine, sampler."""
