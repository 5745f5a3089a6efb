"""An eleventh look: sequences, control and science, in our own words.

The fields and a word for each, fixed before any search. Sentences: "sentence-vae". Texts: "vae-text-gen". Topics:
"neural-topic". Dialogue: "vae-dialogue". Speech: "speech-vae". Music: "music-vae". Films to come: "video-prediction".
Paths: "trajectory-forecast". Series: "timevae". Anomalies: "lstm-vae". Worlds: "rssm". SAC: "sac-pytorch". PPO:
"ppo-continuous". Neural processes: "neural-process". VRNN: "vrnn". DKF: "deep-kalman". DMM: "deep-markov". Latent ODE:
"latent_ode". Latent SDE: "latent-sde". Motion: "motion-vae". Handwriting: "handwriting-gen". EEG: "eeg-vae". Neurons:
"neural-vae". Weather: "climate-vae". Finance: "factorvae". Physics: "vae-phys". Fluids: "fluid-vae". Proteins:
"vae-protein". Drugs: "molecule-vae". Knowledge: "vae-kg". Active inference: "deep-active-inference". Meta learning:
"bayesian-meta". Imitation: "behavior-cloning". Robots: "vae-robot". Traffic: "vae-traffic". Skills: "skill-vae".
Hearts: "vae-ecg". Skies: "spectra-vae". Mixtures of densities: "mdn-pytorch". Forecasts: "deepar". Gaussian processes:
"gp-vae". Models of worlds that many policies learn in: "mbpo". Imitation against a critic: "gail-pytorch". Offline:
"cql-pytorch". Seismology: "vae-seism". Sounds: "audio-vae". Models without a head: "ddpg-pytorch", "lstm-forecast",
"char-rnn", "transe-pytorch", "decision-transformer", "pinn-pytorch", "dueling-dqn", "tcn-pytorch".
"""
